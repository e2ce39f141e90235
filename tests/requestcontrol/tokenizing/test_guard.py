from __future__ import annotations

from itertools import pairwise
from math import ceil

import hypothesis.strategies as st
from hypothesis import given, settings

from pointsman.requestcontrol.tokenizing.guard import LEAST, PROOFS, SPREAD, Guard


def slow(guard: Guard, size: int, ms: float, count: int = LEAST, until: float = 0.0) -> None:
    """Readings over one second, the last one at ``until``."""
    for left in reversed(range(count)):
        guard.note(size, ms, until - left * SPREAD / (count - 1))


def test_allows_until_there_is_reason_not_to() -> None:
    guard = Guard(8)
    slow(guard, 1000, 20, LEAST - 1)
    assert guard.allows(1000, 0.0)
    assert guard.allows(1000, 0.0)
    guard = Guard(8)
    slow(guard, 1000, 7.9, 200)
    assert guard.allows(1000, 0.0)
    assert guard.allows(1000, 0.0)


def test_slow_sizes_and_larger_ones_are_skipped_but_for_probes() -> None:
    guard = Guard(8, probe_seconds=1.0)
    slow(guard, 4000, 20)
    assert guard.allows(1000, 0.5)
    assert guard.allows(4000, 0.5), "the first is the probe"
    assert not guard.allows(4000, 0.55)
    assert not guard.allows(100_000, 0.55)
    assert guard.allows(100_000, 0.9)


def test_one_in_twenty_may_be_slow() -> None:
    guard = Guard(8)
    for index in range(60):
        guard.note(1000, 50 if index % 30 == 0 else 1, index / 10)
    assert guard.allows(1000, 6.0)
    assert guard.allows(1000, 6.0)
    assert guard.p95(6.0) == 1


def test_one_stall_is_no_slowness_however_many_waited() -> None:
    """After a restart the first prompts of all clients are late together; then the way is as fast as ever."""
    guard = Guard(50)
    for index in range(24):
        guard.note(20_000, 51, index / 100)
    for index in range(100):
        now = 0.3 + index / 20
        assert guard.allows(20_000, now), now
        guard.note(20_000, 5, now)


def test_probes_become_rarer_while_they_are_late() -> None:
    guard = Guard(8, probe_seconds=1.0)
    slow(guard, 1000, 20)
    tried = []
    for step in range(1, 1000):
        if guard.allows(1000, step / 100):
            tried.append(step / 100)
            guard.note(1000, 20, step / 100)
    pauses = [round(after - before, 2) for before, after in pairwise(tried)]
    assert tried[0] < 0.2
    assert pauses[:2] == sorted(pauses[:2])
    assert set(pauses[5:]) == {1.0}, "as rare as wanted, and never again all of them"


def test_a_way_that_is_fast_again_is_open_within_a_second() -> None:
    guard = Guard(50)
    slow(guard, 20_000, 60, 40)
    probes = 0
    for step in range(1, 100):
        if guard.allows(20_000, step / 100):
            probes += 1
            guard.note(20_000, 5, step / 100)
        if probes == PROOFS:
            break
    assert step < 60
    assert all(guard.allows(20_000, 1.0) for _ in range(20))


def test_a_late_probe_begins_the_count_anew() -> None:
    guard = Guard(50)
    slow(guard, 20_000, 60, 40)
    for index in range(PROOFS - 1):
        guard.note(20_000, 5, 0.1 * index)
    guard.note(20_000, 60, 0.5)
    guard.note(20_000, 5, 0.6)
    assert guard.allows(20_000, 2.0)
    assert not guard.allows(20_000, 2.0)


def test_small_prompts_say_nothing_of_large_ones() -> None:
    guard = Guard(8, probe_seconds=1.0)
    slow(guard, 20_000, 20)
    tried = 0
    for step in range(1, 500):
        now = step / 100
        guard.note(100, 1, now)
        if guard.allows(20_000, now):
            tried += 1
            guard.note(20_000, 20, now)
    assert 5 <= tried <= 9, "no more often for all the small ones in time"
    for index in range(PROOFS):
        guard.note(20_000, 1, 5 + index / 10)
        guard.note(100, 1, 5 + index / 10)
    assert all(guard.allows(20_000, 5.5) for _ in range(9))


def test_recovers_when_readings_are_old() -> None:
    guard = Guard(8)
    slow(guard, 1000, 20)
    assert guard.allows(1000, 5.0)
    assert not guard.allows(1000, 5.05)
    assert guard.allows(1000, 10.0)
    assert guard.allows(1000, 10.0)
    assert guard.p95(10.1) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from([1.0, 8.0, 9.0, 9.0, 9.0])), max_size=80))
def test_the_first_judgement_is_that_of_the_percentile(readings: list[tuple[float, float]]) -> None:
    guard = Guard(8, window=20)
    now = 0.0
    kept: list[tuple[float, float]] = []
    for pause, ms in readings:
        now += pause
        kept = [(at, one) for at, one in (*kept, (now, ms))[-20:] if now - at < 10]
        guard.note(1000, ms, now)
        values, late = sorted(one for _, one in kept), [at for at, one in kept if one > 8]
        slow_now = len(kept) >= LEAST and values[ceil(0.95 * len(values)) - 1] > 8 and late[-1] - late[0] >= SPREAD
        guard.allows(1000, now)  # the probe, if it is skipped
        assert guard.allows(1000, now) is not slow_now
        if slow_now:
            return
