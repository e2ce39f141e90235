"""When to stop asking a server that fails: a circuit breaker. No I/O, no clock of its own."""

from __future__ import annotations

FAILURES = 5
SPAN = 0.25
"""Seconds. Requests that come together fail together: that is one event, and no sign that the next will fail, too."""
PAUSE = 1.0


class Breaker:
    """Open after some failures in a row; then one request at a time is let through, each a pause after the last.

    Args:
        failures: in a row, until it opens.
        span: seconds from the first to the last of them, at least.
        pause: seconds between two tries while it is open.
    """

    def __init__(self, failures: int = FAILURES, span: float = SPAN, pause: float = PAUSE) -> None:
        self._limit, self._span, self._pause = failures, span, pause
        self._failures = 0
        self._since = self._next = float("-inf")
        self._open = False

    def is_open(self, now: float) -> bool:
        """Whether :meth:`enter` would say no; changes nothing."""
        return self._open and now < self._next

    def enter(self, now: float) -> bool:
        """Whether one may be let through now. While open, whoever hears yes is the probe."""
        if self.is_open(now):
            return False
        if self._open:
            self._next = now + self._pause  # also when nothing is heard of this probe again
        return True

    def succeeded(self) -> None:
        """An answer came in time."""
        self._failures, self._open = 0, False

    def failed(self, now: float) -> None:
        """None came, or none that was any use."""
        if not self._failures:
            self._since = now
        self._failures += 1
        if self._failures >= self._limit and now - self._since >= self._span:
            self._open = True
        if self._open:
            self._next = now + self._pause
