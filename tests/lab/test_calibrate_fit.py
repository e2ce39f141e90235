from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.lab.calibrate_fit import CalibrationError, DecodeSample, InterferenceSample, PrefillSample, fit, robust
from pointsman.sim.profiles import PROFILES, EngineProfile, find_profile

QWEN = find_profile("qwen3-32b-2xh100")
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


def prefill_samples(profile: EngineProfile) -> list[PrefillSample]:
    cold = [PrefillSample(n, 0, profile.prefill_fixed + profile.chunk_ms(n, 0)) for n in LENGTHS]
    warm = [PrefillSample(256, n, profile.prefill_fixed + profile.chunk_ms(256, n)) for n in LENGTHS]
    return (cold + warm) * 3


def decode_samples(profile: EngineProfile) -> list[DecodeSample]:
    pairs = [(count, count * context) for count in (1, 4, 16) for context in (150, 2100)]
    return [DecodeSample(count, context, profile.step_ms(count, context, 0)) for count, context in pairs]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_clean_samples_give_the_coefficients_back(profile: EngineProfile) -> None:
    shared = [InterferenceSample(1500, profile.interference * (profile.prefill_fixed + profile.chunk_ms(1500, 0)))]
    found = fit(prefill_samples(profile), decode_samples(profile), shared)
    for name in (
        *("prefill_fixed", "prefill_per_token", "prefill_quadratic", "prefill_cached"),
        *("decode_base", "decode_per_request", "decode_per_context_token", "interference"),
    ):
        assert getattr(found, name) == pytest.approx(getattr(profile, name), rel=1e-3), name
    assert found.prefill_error < 1e-6
    assert found.notes == ()


def test_a_third_of_outliers_changes_little() -> None:
    rng = random.Random(1)
    samples = [
        PrefillSample(one.new, one.cached, one.ms * rng.uniform(0.99, 1.01) * (rng.uniform(2, 5) if at % 5 == 0 else 1))
        for at, one in enumerate(prefill_samples(QWEN) * 3)
    ]
    found = fit(samples, decode_samples(QWEN))
    for n in LENGTHS:
        time = found.prefill_fixed + n * (found.prefill_per_token + found.prefill_quadratic * n)
        assert time == pytest.approx(QWEN.prefill_fixed + QWEN.chunk_ms(n, 0), rel=0.05)


def test_what_was_not_measured_is_said() -> None:
    cold = [one for one in prefill_samples(QWEN) if not one.cached]
    found = fit(cold, decode_samples(QWEN))
    assert found.prefill_cached == pytest.approx(2 * found.prefill_quadratic)
    assert found.interference == 0.875
    assert len(found.notes) == 2


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(CalibrationError, match="three lengths"):
        fit(prefill_samples(QWEN)[:2], decode_samples(QWEN))
    with pytest.raises(CalibrationError, match="two concurrencies"):
        fit(prefill_samples(QWEN), decode_samples(QWEN)[:2])


def test_samples_that_are_all_alike_are_refused() -> None:
    with pytest.raises(CalibrationError, match="too much alike"):
        robust([(1.0, 2.0)] * 5, [3.0] * 5)


@settings(max_examples=50, deadline=None)
@given(
    truth=st.tuples(st.floats(0, 50), st.floats(0, 1), st.floats(0, 1e-5)),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 1000),
)
def test_no_coefficient_is_negative_and_times_come_close(
    truth: tuple[float, float, float], noise: float, seed: int
) -> None:
    rng = random.Random(seed)
    rows = [(1.0, float(n), float(n) ** 2) for n in LENGTHS for _ in range(4)]
    exact = [1e-3 + sum(c * x for c, x in zip(truth, row, strict=True)) for row in rows]
    found = robust(rows, [value * rng.uniform(1 - noise, 1 + noise) for value in exact])
    assert min(found) >= 0
    for row, value in zip(rows, exact, strict=True):
        assert sum(c * x for c, x in zip(found, row, strict=True)) == pytest.approx(value, rel=2 * noise + 0.02)
