from __future__ import annotations

import pytest

from pointsman.latency.model import DEFAULT_PROFILE, LATENCY_PROFILES

QWEN = LATENCY_PROFILES["qwen3-32b-2xh100"]


@pytest.mark.parametrize(
    ("new", "cached", "expected"),
    [
        (0, 0, 8.0),
        (1000, 0, 8 + 47.5 + 0.87),
        (4096, 0, 8 + 194.56 + 14.596178),
        (1000, 10_000, 8 + 47.5 + 0.87 + 17.4),
    ],
)
def test_prefill(new: int, cached: int, expected: float) -> None:
    assert QWEN.prefill_ms(new, cached) == pytest.approx(expected)


def test_decode_step() -> None:
    assert QWEN.decode_step_ms(0, 0) == pytest.approx(13.6)
    assert QWEN.decode_step_ms(64, 64 * 1500) == pytest.approx(13.6 + 1.7152 + 4.0512)


@pytest.mark.parametrize(
    ("tokens", "measured_ms"), [(1024, 55.5), (2048, 107), (4096, 224), (8192, 476), (16384, 1049), (32768, 2503)]
)
def test_prefill_is_near_the_measured_points(tokens: int, measured_ms: float) -> None:
    assert QWEN.prefill_ms(tokens, 0) == pytest.approx(measured_ms, rel=0.08)


@pytest.mark.parametrize("name", LATENCY_PROFILES)
def test_profiles_grow_with_work_and_name_their_source(name: str) -> None:
    model = LATENCY_PROFILES[name]
    assert model.source
    assert model.prefill_ms(100, 0) < model.prefill_ms(200, 0) < model.prefill_ms(200, 1000)
    assert model.decode_step_ms(1, 100) < model.decode_step_ms(2, 100) < model.decode_step_ms(2, 200)
    assert model.prefill_per_cached_pair == pytest.approx(2 * model.prefill_per_token_pair)


def test_splitting_a_prefill_costs_one_more_base() -> None:
    # The cached term is the square term's counterpart: attention adds up over the pieces.
    split = QWEN.prefill_ms(3000, 0) + QWEN.prefill_ms(2000, 3000)
    assert split == pytest.approx(QWEN.prefill_ms(5000, 0) + QWEN.prefill_base)


def test_other_profiles() -> None:
    assert LATENCY_PROFILES["llama-3.1-70b-4xh100"].prefill_ms(1000, 0) == pytest.approx(7.9 + 59.9 + 0.54)
    assert LATENCY_PROFILES["qwen3-8b-1xh100"].decode_step_ms(10, 10_000) == pytest.approx(6.6 + 0.121 + 0.47)
    assert DEFAULT_PROFILE in LATENCY_PROFILES
