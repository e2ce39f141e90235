"""Clocks: the machine's, a faster one, and one that moves when told to."""

from __future__ import annotations

import time

import pytest

from pointsman.clock import Clock, ManualClock, ScaledClock, SystemClock


@pytest.mark.parametrize("clock", [SystemClock(), ScaledClock(4), ManualClock(5.0)], ids=lambda c: type(c).__name__)
def test_time_never_runs_backwards(clock: Clock) -> None:
    readings = [clock.now() for _ in range(100)]
    assert readings == sorted(readings)


@pytest.mark.parametrize("clock", [SystemClock(), ScaledClock(4)], ids=lambda c: type(c).__name__)
def test_wall_time_is_the_machines_own(clock: Clock) -> None:
    before, told, after = time.time(), clock.wall(), time.time()
    assert before <= told <= after


@pytest.mark.parametrize("scale", [0.5, 1, 4, 1000])
def test_a_scaled_clock_runs_that_many_times_as_fast(scale: float) -> None:
    clock = ScaledClock(scale)
    clock._start = 0.0
    before, told, after = time.monotonic(), clock.now(), time.monotonic()
    assert before * scale <= told <= after * scale


@pytest.mark.parametrize("scale", [0, -1, -0.1])
def test_a_scale_that_is_not_above_zero_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=f"above 0, got {scale}"):
        ScaledClock(scale)


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock = ManualClock(100.0)
    assert (clock.now(), clock.wall()) == (100.0, 100.0)
    clock.advance(2.5)
    clock.advance(0)
    assert (clock.now(), clock.wall()) == (102.5, 102.5)


def test_a_manual_clock_refuses_to_run_backwards() -> None:
    clock = ManualClock(1.0)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-0.001)
    assert clock.now() == 1.0
