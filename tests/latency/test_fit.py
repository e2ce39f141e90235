"""A model that fits itself: what it learns from which answer, and that nothing makes it worse than useless."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.endpoint import EndpointId
from pointsman.latency.fit import FIRST, INTERFERENCE, WAIT_STEPS, FittingModel, Sample
from pointsman.latency.model import DEFAULT_PROFILE, LATENCY_PROFILES, LatencyModel

TRUTH = LATENCY_PROFILES[DEFAULT_PROFILE]
POD = EndpointId("pod")


def off(prefill: float, decode: float) -> LatencyModel:
    """The truth, miscalibrated."""
    factors = {name: prefill if name.startswith("prefill") else decode for name in TRUTH.__struct_fields__}
    wrong = {name: getattr(TRUTH, name) * factor for name, factor in factors.items() if name != "source"}
    return msgspec.structs.replace(TRUTH, **wrong)


def answer(new: int = 1000, cached: int = 0, *, batch: int = 1, pace: float = 1.0, **change: Any) -> Sample:
    """What an engine that works by the truth would show; alone there with ``batch=1``."""
    context = 2000 * batch
    step = pace * TRUTH.decode_step_ms(batch, context)
    ttft = pace * TRUTH.prefill_ms(new, cached)
    if batch > 1:
        ttft = INTERFERENCE * ttft + WAIT_STEPS * step
    fields = {
        "endpoint": POD,
        "new_tokens": new,
        "cached_tokens": cached,
        "before": batch - 1,
        "waiting": 0,
        "ttft_ms": ttft,
        "total_ms": ttft + 100 * step,
        "output_tokens": 101,
        "batch": float(batch),
        "context_tokens": float(context),
        "joined": 0,
        "joined_tokens": 0.0,
    }
    return Sample(**fields | change)  # type: ignore[arg-type]


def error(model: FittingModel) -> tuple[float, float]:
    """Largest relative errors of prefills and steps."""
    prefill = [model.prefill_ms(n, c) / TRUTH.prefill_ms(n, c) - 1 for n, c in ((500, 0), (4000, 0), (1000, 8000))]
    steps = [model.decode_step_ms(b, 2000 * b) / TRUTH.decode_step_ms(b, 2000 * b) - 1 for b in (1, 8, 32)]
    return max(map(abs, prefill)), max(map(abs, steps))


def teach(model: FittingModel, count: int, seed: int = 1) -> None:
    """Answers of all kinds, with an error of up to 10 % in their times."""
    rng = Random(seed)
    for _ in range(count):
        one = answer(rng.choice((400, 1500, 6000)), rng.choice((0, 4000)), batch=rng.choice((1, 1, 4, 20)))
        ttft = one.ttft_ms * rng.uniform(0.9, 1.1)
        total = ttft + (one.total_ms - one.ttft_ms) * rng.uniform(0.95, 1.05)
        model.observe(msgspec.structs.replace(one, ttft_ms=ttft, total_ms=total))


def test_without_answers_it_is_its_seed() -> None:
    model = FittingModel(TRUTH)
    assert model.prefill_ms(1234, 567) == pytest.approx(TRUTH.prefill_ms(1234, 567))
    assert model.decode_step_ms(12, 3456) == pytest.approx(TRUTH.decode_step_ms(12, 3456))
    assert msgspec.structs.replace(model.model(), source="") == msgspec.structs.replace(TRUTH, source="")


@pytest.mark.parametrize("prefill", [1 / 3, 1.0, 3.0])
@pytest.mark.parametrize("decode", [1 / 3, 1.0, 3.0])
def test_a_wrong_calibration_is_forgotten(prefill: float, decode: float) -> None:
    model = FittingModel(off(prefill, decode))
    teach(model, 300)
    assert max(error(model)) < 0.1


def test_every_tenth_answer_that_took_ten_times_as_long_does_not_matter() -> None:
    model = FittingModel(off(3, 3))
    rng = Random(4)
    for _ in range(60):
        for _ in range(9):
            teach(model, 1, rng.randrange(1 << 30))
        slow = answer(1500, batch=4)
        model.observe(msgspec.structs.replace(slow, ttft_ms=10 * slow.ttft_ms, total_ms=20 * slow.total_ms))
    assert max(error(model)) < 0.1


def test_it_still_says_how_a_step_grows_with_the_batch_alike_for_each_request() -> None:
    model = FittingModel(off(1, 3))
    teach(model, 50)
    growth = model.decode_step_ms(1, 100) - model.decode_step_ms(0, 0)
    assert model.decode_step_ms(11, 5100) - model.decode_step_ms(10, 5000) == pytest.approx(growth)


class TestPrefill:
    def test_who_had_to_wait_tells_nothing_of_a_model_that_may_be_right(self) -> None:
        model = FittingModel(TRUTH)
        for _ in range(50):
            model.observe(answer(before=2, waiting=2, ttft_ms=500.0, total_ms=2000.0))
        assert model.prefill_ms(1000, 0) == pytest.approx(TRUTH.prefill_ms(1000, 0))
        assert model.describe()["samples"]["waited"] == 50

    def test_who_waited_less_than_its_own_prefill_should_take_brings_it_down(self) -> None:
        model = FittingModel(off(3, 1))
        for _ in range(50):
            model.observe(answer(before=1, waiting=1))
        assert 0.9 < model.prefill_ms(1000, 0) / TRUTH.prefill_ms(1000, 0) < 1.5

    def test_a_prompt_of_unknown_cache_tells_nothing(self) -> None:
        model = FittingModel(off(3, 1))
        model.observe(answer(new_tokens=None))
        assert model.prefill_ms(1000, 0) == pytest.approx(3 * TRUTH.prefill_ms(1000, 0))
        assert model.describe()["samples"]["prompt-unknown"] == 1

    def test_one_hidden_behind_the_reading_of_the_weights_tells_nothing(self) -> None:
        model = FittingModel(TRUTH)
        for _ in range(50):
            model.observe(answer(10, ttft_ms=14.1, total_ms=1414.1))
        assert model.prefill_ms(10, 0) == pytest.approx(TRUTH.prefill_ms(10, 0))

    def test_short_answers_tell_it_too(self) -> None:
        model = FittingModel(off(3, 1))
        for new in 30 * (500, 2000):
            one = answer(new)
            model.observe(msgspec.structs.replace(one, output_tokens=1, total_ms=one.ttft_ms))
        assert error(model)[0] < 0.1


class TestDecode:
    def test_prefills_of_others_are_taken_off(self) -> None:
        model = FittingModel(off(1, 3))
        for batch in 30 * (1, 10):
            one = answer(batch=batch)
            others = 3 * INTERFERENCE * TRUTH.prefill_ms(1000, 0)
            model.observe(msgspec.structs.replace(one, total_ms=one.total_ms + others, joined=3, joined_tokens=3000))
        assert error(model)[1] < 0.05

    def test_an_answer_that_was_mostly_interrupted_tells_nothing(self) -> None:
        model = FittingModel(TRUTH)
        model.observe(answer(joined=30, joined_tokens=300_000))
        assert model.describe()["samples"]["too-much-prefill"] == 1
        assert model.describe()["samples"]["decode"] == 0


class TestDrift:
    def test_an_engine_that_becomes_slower_is_followed(self) -> None:
        model = FittingModel(TRUTH)
        teach(model, 2000)
        for batch in 20 * (1, 8):
            model.observe(answer(batch=batch, pace=2.0))
        assert model.prefill_ms(1000, 0) == pytest.approx(2 * TRUTH.prefill_ms(1000, 0), rel=0.15)
        assert model.decode_step_ms(8, 16_000) == pytest.approx(2 * TRUTH.decode_step_ms(8, 16_000), rel=0.15)
        assert min(model.describe()["drifts"].values()) >= 1


class TestPods:
    def test_a_slow_pod_is_shown_and_leaves_the_others_model_alone(self) -> None:
        model, rng = FittingModel(TRUTH), Random(1)
        for _ in range(800):
            pod = rng.randrange(8)
            pace = 2.0 if pod == 3 else 1.0
            batch = rng.choice((1, 8))
            model.observe(answer(batch=batch, pace=pace, endpoint=EndpointId(f"pod-{pod}")))
        slowness = model.describe()["slowness"]
        assert slowness["pod-3"] == pytest.approx(2.0, rel=0.1)
        assert slowness["pod-1"] == pytest.approx(1.0, rel=0.1)
        assert max(error(model)) < 0.1

    @pytest.mark.parametrize(
        ("per_pod", "pace", "told"),
        [(True, 2.0, 2.0), (True, 0.5, 0.5), (True, 20.0, 4.0), (True, 1.2, 1), (False, 2.0, 1)],
    )
    def test_one_that_stands_out_is_told_if_asked_to(self, per_pod: bool, pace: float, told: float) -> None:
        model, rng = FittingModel(TRUTH, per_pod=per_pod), Random(2)
        odd = EndpointId("pod-3")
        for number in range(400):
            pod = EndpointId(f"pod-{number % 5}")
            own = pace if pod == odd else rng.uniform(0.9, 1.1)
            model.observe(answer(batch=rng.choice((1, 8)), pace=own, endpoint=pod))
        assert model.paces.get(odd, 1) == pytest.approx(told, rel=0.15)
        assert set(model.paces) <= {odd}
        model.forget(odd)
        assert model.paces == {}

    def test_one_that_is_gone_is_forgotten(self) -> None:
        model = FittingModel(TRUTH)
        teach(model, 20)
        assert list(model.describe()["slowness"]) == [POD]
        model.forget(POD)
        model.forget(EndpointId("never there"))
        assert model.describe()["slowness"] == {}


class TestFirstAnswers:
    def test_are_looked_at_until_there_are_enough(self) -> None:
        model = FittingModel(TRUTH)
        assert model.wants(0.05)
        model.begun = FIRST
        assert not model.wants(0.05)

    def test_not_where_none_may_be_looked_at(self) -> None:
        assert not FittingModel(TRUTH).wants(0.0)


def test_what_it_describes_is_plain_data() -> None:
    model = FittingModel(off(3, 1))
    teach(model, 100)
    shown = msgspec.json.decode(msgspec.json.encode(model.describe()))
    assert shown["factors"]["prefill_tokens"] == pytest.approx(1 / 3, rel=0.1)
    assert shown["coefficients"]["prefill_per_token"] == pytest.approx(TRUTH.prefill_per_token, rel=0.1)
    assert shown["samples"]["prefill"] <= 100


ANY = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e4)
COUNT = st.integers(-5, 10**12)
SAMPLES = st.builds(
    Sample,
    endpoint=st.sampled_from(["a", "b"]),
    new_tokens=st.none() | ANY,
    cached_tokens=ANY,
    before=COUNT,
    waiting=COUNT,
    ttft_ms=ANY,
    total_ms=ANY,
    output_tokens=COUNT,
    batch=ANY,
    context_tokens=ANY,
    joined=COUNT,
    joined_tokens=ANY,
)
COEFFICIENT = st.floats(0, 1e6)
SEEDS = st.builds(LatencyModel, **dict.fromkeys(TRUTH.__struct_fields__[:7], COEFFICIENT)) | st.just(TRUTH)
PLAUSIBLE = st.builds(
    answer,
    st.integers(1, 30_000),
    st.integers(0, 30_000),
    batch=st.integers(1, 200),
    pace=st.floats(0.001, 1000),
)


@given(SEEDS, st.lists(SAMPLES | PLAUSIBLE, max_size=60))
def test_whatever_comes_the_model_stays_within_ten_times_of_its_seed(seed: LatencyModel, samples: list[Sample]) -> None:
    model = FittingModel(seed)
    for sample in samples:
        model.observe(sample)
        for value, expected in (
            (model.prefill_ms(1000, 500), seed.prefill_ms(1000, 500)),
            (model.decode_step_ms(8, 9000), seed.decode_step_ms(8, 9000)),
        ):
            assert math.isfinite(value)
            assert 0.0999 * expected <= value <= 10.001 * expected
