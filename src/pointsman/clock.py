"""Time as an argument.

Everything below the rim asks a Clock, so that the simulator can run hours in seconds and a time-scaled demo keeps its
milliseconds in engine time.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time, in seconds."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class ScaledClock:
    """The machine's monotonic clock running ``scale`` times as fast.

    Engines simulated with ``--time-scale 4`` live four seconds in one; a picker in front of them reads this clock, so
    that its milliseconds are theirs. Wall time stays real.
    """

    def __init__(self, scale: float) -> None:
        if scale <= 0:
            raise ValueError(f"time scale must be above 0, got {scale}")
        self._scale = scale
        self._start = time.monotonic()

    def now(self) -> float:
        return (time.monotonic() - self._start) * self._scale

    def wall(self) -> float:
        return time.time()


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward.

        Raises:
            ValueError: if ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += seconds

    def move_to(self, now: float) -> None:
        """Move forward to ``now``, exactly; sums of steps would not be.

        Raises:
            ValueError: if that is in the past.
        """
        if now < self._now:
            raise ValueError("time does not run backwards")
        self._now = now
