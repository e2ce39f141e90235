import pytest

from pointsman.errors import ConfigError
from pointsman.sim.profiles import DEFAULT_PROFILE, PROFILES, EngineProfile, find_profile

QWEN = find_profile(DEFAULT_PROFILE)


def test_a_long_prompt_costs_what_was_measured() -> None:
    # AIConfigurator, batch 1: 1k 55.5 ms, 4k 224 ms, 8k 476 ms.
    for tokens, measured in ((1024, 55.5), (4096, 224.0), (8192, 476.0)):
        assert QWEN.step_ms(0, 0, QWEN.chunk_ms(tokens, 0)) == pytest.approx(measured, rel=0.06)


def test_chunks_cost_as_much_as_the_whole() -> None:
    whole = QWEN.chunk_ms(6000, 0)
    assert QWEN.chunk_ms(2500, 0) + QWEN.chunk_ms(3500, 2500) == pytest.approx(whole)


def test_a_cached_prefix_still_has_to_be_read() -> None:
    # Measured for 4k new tokens: +25 ms with 4k cached, +79 ms with 12k.
    assert QWEN.chunk_ms(4096, 4096) - QWEN.chunk_ms(4096, 0) == pytest.approx(27, abs=5)
    assert QWEN.chunk_ms(4096, 12288) - QWEN.chunk_ms(4096, 0) == pytest.approx(83, abs=10)


def test_no_step_is_shorter_than_the_floor() -> None:
    assert QWEN.step_ms(0, 0, QWEN.chunk_ms(10, 0)) == 14.1


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_profile_holds_a_full_prompt(profile: EngineProfile) -> None:
    assert profile.num_blocks * profile.block_size >= profile.max_model_len


def test_the_capacity_can_be_set() -> None:
    assert find_profile(DEFAULT_PROFILE, kv_tokens=16_000).num_blocks == 1000
    with pytest.raises(ConfigError, match="no block"):
        find_profile(DEFAULT_PROFILE, kv_tokens=3)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="qwen3-8b-1xh100"):
        find_profile("gpt")
