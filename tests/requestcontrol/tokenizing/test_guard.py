from __future__ import annotations

from pointsman.requestcontrol.tokenizing.guard import LEAST, Guard


def slow(guard: Guard, size: int, ms: float, count: int = LEAST, now: float = 0.0) -> None:
    for _ in range(count):
        guard.note(size, ms, now)


def test_allows_until_there_is_reason_not_to() -> None:
    guard = Guard(8)
    slow(guard, 1000, 20, LEAST - 1)
    assert guard.allows(1000, 0.0)
    slow(guard, 1000, 7.9, 200)
    assert guard.allows(1000, 0.0)


def test_slow_sizes_and_larger_ones_are_skipped_but_for_probes() -> None:
    guard = Guard(8)
    slow(guard, 4000, 20)
    assert guard.allows(1000, 0.5)
    assert guard.allows(4000, 0.5), "the first is the probe"
    assert not guard.allows(4000, 0.6)
    assert not guard.allows(100_000, 1.4)
    assert guard.allows(100_000, 1.5)
    assert not guard.allows(100_000, 1.6)


def test_one_in_twenty_may_be_slow() -> None:
    guard = Guard(8)
    for index in range(60):
        guard.note(1000, 50 if index % 30 == 0 else 1, 0.0)
    assert guard.allows(1000, 0.0)
    assert guard.allows(1000, 0.0)
    assert guard.p95(0.0) == 1


def test_recovers_when_readings_are_old() -> None:
    guard = Guard(8)
    slow(guard, 1000, 20)
    assert guard.allows(1000, 5.0)
    assert not guard.allows(1000, 5.1)
    assert guard.allows(1000, 10.0)
    assert guard.allows(1000, 10.1)
    assert guard.p95(10.1) == 0
