"""Is a way fast enough for a prompt of this size, judged by what it took lately?

Waiting for the whole budget and then estimating anyway is the worst of both: the client pays and nobody gains. So once
the 95th percentile of a size is over the budget, prompts of that size and larger skip the way, but for a probe now and
then. Readings expire, so a way that was slow under load is tried again.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from threading import Lock

LEAST = 8
"""Readings before a judgement."""


class Guard:
    """Running 95th percentiles by size class (powers of two). Safe to use from several threads."""

    def __init__(
        self, budget_ms: float, *, window: int = 64, forget_seconds: float = 10.0, probe_seconds: float = 1.0
    ) -> None:
        self.budget_ms = budget_ms
        self._window = window
        self._forget = forget_seconds
        self._probe = probe_seconds
        self._readings: dict[int, deque[tuple[float, float]]] = {}
        self._last_probe = float("-inf")
        self._lock = Lock()

    def allows(self, size: int, now: float) -> bool:
        """Whether to try the way for ``size`` (bytes or characters) at ``now`` (seconds)."""
        with self._lock:
            largest = size.bit_length()
            if not any(self._over(kind, now) for kind in self._readings if kind <= largest):
                return True
            if now - self._last_probe < self._probe:
                return False
            self._last_probe = now
            return True

    def note(self, size: int, ms: float, now: float) -> None:
        """The way took ``ms``, or at least that long when it was given up."""
        with self._lock:
            readings = self._readings.setdefault(size.bit_length(), deque(maxlen=self._window))
            readings.append((now, ms))

    def p95(self, now: float) -> float:
        """Of all sizes together, in milliseconds; 0 without readings."""
        with self._lock:
            return _p95([ms for readings in self._readings.values() for at, ms in readings if now - at < self._forget])

    def _over(self, kind: int, now: float) -> bool:
        readings = self._readings[kind]
        while readings and now - readings[0][0] >= self._forget:
            readings.popleft()
        return len(readings) >= LEAST and _p95([ms for _, ms in readings]) > self.budget_ms


def _p95(values: list[float]) -> float:
    return sorted(values)[ceil(0.95 * len(values)) - 1] if values else 0.0
