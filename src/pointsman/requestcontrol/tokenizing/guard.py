"""Is a way fast enough for a prompt of this size, judged by what it took lately?

Waiting for the whole budget and then estimating anyway is the worst of both: the client pays and nobody gains. So once
the 95th percentile of a size is over the budget, prompts of that size and larger skip the way, but for probes.

One stall is no slowness. A dozen prompts that wait at the same moment, behind cold connections or a busy machine, are
late together and tell one thing, not twelve; so the late ones must be spread over a second. And a way that was slow
is tried again soon: probes begin at ten a second, become rarer with each that is late, and a few in time in a row
open the way. Without prompts readings expire.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from threading import Lock

LEAST = 8
"""Readings before a judgement."""
SPREAD = 1.0
FIRST_PROBE = 0.1
"""Seconds to the first probe, and between two that are in time."""
PROOFS = 5
"""Readings in time, in a row, that open a way: with one in five late, they come together one time in three."""


class Guard:
    """Running 95th percentiles by size class (powers of two). Safe to use from several threads.

    Args:
        budget_ms: what a reading may be.
        window: readings kept by size.
        forget_seconds: age at which they expire.
        probe_seconds: longest pause between two probes.
        spread_seconds: from the first late reading to the last, before a judgement.
    """

    def __init__(
        self,
        budget_ms: float,
        *,
        window: int = 64,
        forget_seconds: float = 10.0,
        probe_seconds: float = 1.0,
        spread_seconds: float = SPREAD,
    ) -> None:
        self.budget_ms = budget_ms
        self._window = window
        self._forget = forget_seconds
        self._probe = probe_seconds
        self._spread = spread_seconds
        self._sizes: dict[int, _Readings] = {}
        self._last_probe = float("-inf")
        self._pause = FIRST_PROBE
        self._in_time = 0  # in a row, while the way is skipped
        self._lock = Lock()

    def allows(self, size: int, now: float) -> bool:
        """Whether to try the way for ``size`` (bytes or characters) at ``now`` (seconds)."""
        with self._lock:
            if not self._slow(size, now):
                return True
            if now - self._last_probe < self._pause:
                return False
            self._last_probe = now
            return True

    def note(self, size: int, ms: float, now: float) -> None:
        """The way took ``ms``, or at least that long when it was given up."""
        with self._lock:
            readings = self._sizes.setdefault(size.bit_length(), _Readings())
            late = ms > self.budget_ms
            readings.add(now, ms, late=late, most=self._window)
            slow = self._slow(size, now)
            if not slow:  # a size that is not skipped says nothing of those that are
                return
            if late:
                self._in_time = 0
                self._pause = min(2 * self._pause, self._probe)
                return
            self._in_time += 1
            self._pause = FIRST_PROBE
            if self._in_time >= PROOFS:
                self._in_time = 0
                for one in slow:
                    one.clear()

    def p95(self, now: float) -> float:
        """Of all sizes together, in milliseconds; 0 without readings."""
        with self._lock:
            values = sorted(ms for one in self._sizes.values() for at, ms, _ in one.all if now - at < self._forget)
            return values[ceil(0.95 * len(values)) - 1] if values else 0.0

    def _slow(self, size: int, now: float) -> list[_Readings]:
        """The sizes up to this one that take too long: a larger prompt takes longer still."""
        largest, oldest = size.bit_length(), now - self._forget
        return [one for kind, one in self._sizes.items() if kind <= largest and one.too_slow(oldest, self._spread)]


class _Readings:
    """Of one size. The late ones are kept apart, so that a judgement needs no look at all."""

    __slots__ = ("all", "late")

    def __init__(self) -> None:
        self.all: deque[tuple[float, float, bool]] = deque()  # when, milliseconds, late
        self.late: deque[float] = deque()  # when

    def add(self, at: float, ms: float, *, late: bool, most: int) -> None:
        self.all.append((at, ms, late))
        if late:
            self.late.append(at)
        if len(self.all) > most:
            self._drop()

    def too_slow(self, oldest: float, spread: float) -> bool:
        """Whether the 95th percentile of what is younger than ``oldest`` is late, and was for long enough."""
        while self.all and self.all[0][0] <= oldest:
            self._drop()
        count = len(self.all)
        if count < LEAST or len(self.late) <= count - ceil(0.95 * count):
            return False
        return self.late[-1] - self.late[0] >= spread

    def clear(self) -> None:
        self.all.clear()
        self.late.clear()

    def _drop(self) -> None:
        if self.all.popleft()[2]:
            self.late.popleft()
