"""Steps in one go against the same steps one by one."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.sim.engine import Engine
from pointsman.sim.kv import CacheEvent
from pointsman.sim.profiles import EngineProfile, find_profile
from pointsman.sim.sequence import SimRequest

QWEN = find_profile("qwen3-32b-2xh100")
NEVER = float("inf")


class Clocked:
    """Drives an engine on a time line, step by step or in stretches."""

    def __init__(self, engine: Engine, *, stretched: bool) -> None:
        self.engine, self.stretched = engine, stretched
        self.end = NEVER
        self.calls = 0
        self.emissions: list[tuple[str, int, bool]] = []
        self.emitted: list[float] = []
        self.batches: list[tuple[float, list[CacheEvent]]] = []
        self.readings: list[tuple[float, ...]] = []

    def run_until(self, time: float) -> None:
        while self.end <= time and self.end < NEVER:
            now = self.end
            self.calls += 1
            for one in self.engine.finish(now).emissions:
                self.emissions.append((one.request_id, one.outputs, one.finished is not None))
                self.emitted.append(now)
            self.batches += self.engine.drain_batches(now)
            self.begin(now)

    def begin(self, now: float) -> None:
        length = self.engine.begin(now)
        self.end = NEVER if length is None else now + length
        if length is not None and self.stretched:
            self.end = self.engine.stretch(self.end)

    def interrupt(self, time: float, action: Callable[[], object]) -> None:
        self.run_until(time)
        if self.end < NEVER and self.stretched:
            self.end = self.engine.cut(time)
        action()
        if self.end == NEVER:
            self.begin(time)

    def read(self, time: float) -> None:
        self.run_until(time)
        self.engine.settle(time)
        if self.stretched and self.end < NEVER:
            self.batches += self.engine.drain_batches(time) if self.engine._stretch.ahead else []
        stats = self.engine.stats
        self.readings.append((stats.running, stats.waiting, stats.kv_usage, stats.generation_tokens))


def flat(batches: list[tuple[float, list[CacheEvent]]]) -> tuple[list[CacheEvent], list[float]]:
    return [event for _, events in batches for event in events], [at for at, events in batches for _ in events]


profiles = st.builds(
    lambda blocks, seqs, budget, cpu, floor: msgspec.structs.replace(
        QWEN, kv_tokens=blocks * 16, max_num_seqs=seqs, max_batched_tokens=budget, cpu_kv_tokens=cpu * 16,
        step_floor=floor,
    ),
    st.integers(20, 90), st.integers(1, 8), st.integers(16, 200), st.sampled_from([0, 30]),
    st.sampled_from([14.1, 14.25, 30.0]),
)  # fmt: skip
arrivals = st.lists(
    st.tuples(
        st.floats(0, 0.8), st.integers(1, 120), st.integers(1, 150), st.sampled_from([0, 0, 0, 7]),
        st.sampled_from([None, None, "x", "y"]),
    ),
    min_size=1, max_size=10,
)  # fmt: skip


def play(
    profile: EngineProfile,
    arrivals: list[tuple[float, int, int, int, str | None]],
    aborts: list[tuple[int, float]],
    reads: list[float],
    pace: float,
    *,
    stretched: bool,
) -> Clocked:
    """One run on a time line of arrivals, aborts, readings and a change of pace."""
    engine = Engine(profile, max_loras=1, events=True)
    run = Clocked(engine, stretched=stretched)
    agenda: list[tuple[float, int, Callable[[], object]]] = []
    now = 0.0
    for number, (gap, tokens, outputs, interval, adapter) in enumerate(arrivals):
        now += gap
        ids = array("I", random.Random(tokens % 3).choices(range(9999), k=tokens))
        one = SimRequest(str(number), ids, outputs, adapter, interval=interval)
        if tokens + outputs <= engine.max_length:
            agenda.append((now, 0, partial(run.interrupt, now, partial(engine.submit, one, now))))
    agenda += [(at, 1, partial(run.interrupt, at, partial(engine.abort, str(number)))) for number, at in aborts]
    agenda += [(at, 2, partial(run.read, at)) for at in reads]
    agenda.append((2.0, 3, partial(run.interrupt, 2.0, partial(setattr, engine, "pace", pace))))
    for _, _, action in sorted(agenda, key=lambda entry: entry[:2]):
        action()
    run.run_until(1e9)
    return run


@settings(max_examples=50, deadline=None)
@given(
    profile=profiles,
    arrivals=arrivals,
    aborts=st.lists(st.tuples(st.integers(0, 9), st.floats(0, 3)), max_size=3),
    reads=st.lists(st.floats(0, 5), max_size=8),
    pace=st.sampled_from([1.0, 2.5]),
)
def test_stretches_are_the_steps_they_stand_for(
    profile: EngineProfile,
    arrivals: list[tuple[float, int, int, int, str | None]],
    aborts: list[tuple[int, float]],
    reads: list[float],
    pace: float,
) -> None:
    one, many = (play(profile, arrivals, aborts, reads, pace, stretched=stretched) for stretched in (False, True))
    assert many.emissions == one.emissions
    assert many.emitted == pytest.approx(one.emitted)
    assert many.readings == one.readings
    (events, times), (expected, expected_times) = flat(many.batches), flat(one.batches)
    assert events == expected
    assert times == pytest.approx(expected_times)
    stats, reference = many.engine.stats, one.engine.stats
    for name, value in vars(reference).items():
        if hasattr(value, "counts"):
            found = getattr(stats, name)
            assert found.counts == value.counts, name
            assert (found.count, found.sum) == pytest.approx((value.count, value.sum)), name


def test_a_long_answer_takes_two_calls() -> None:
    run = Clocked(Engine(QWEN), stretched=True)
    run.interrupt(0.0, lambda: run.engine.submit(SimRequest("a", array("I", range(1000)), 2000, interval=0), 0.0))
    run.run_until(1e9)
    assert run.calls == 2
    assert run.emissions == [("a", 2000, True)]
    assert run.engine.stats.generation_tokens == 2000


def test_nothing_may_be_asked_while_a_stretch_is_planned() -> None:
    run = Clocked(Engine(QWEN), stretched=True)
    run.interrupt(0.0, lambda: run.engine.submit(SimRequest("a", array("I", range(100)), 50, interval=0), 0.0))
    run.run_until(0.1)
    with pytest.raises(AssertionError, match="cut"):
        run.engine.abort("a")
    assert run.engine.cut(0.1) < 0.2
    assert run.engine.abort("a")
