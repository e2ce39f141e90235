"""Watchdog: cuts off a plugin that blocks the event loop. No signals here; ``app.alarm`` lets it look at the clock.

All calls into plugins go through :meth:`Watchdog.call`. Only while one is under way may :meth:`Watchdog.tick`, run by a
timer's signal, raise: so the picker's own state is never left half changed, whatever a plugin was doing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar, TypeVarTuple

from pointsman.errors import PluginBenchedError, PluginTimeoutError
from pointsman.framework.observer import Observer

STRIKES = 3
"""Time-outs in a row after which a plugin is benched."""

BENCH_SECONDS = 10.0
IDLE_TICKS = 50
"""Ticks without a decision after which the timer rests."""

T = TypeVar("T")
Args = TypeVarTuple("Args")


def do_nothing() -> None:
    """Start or stop no timer."""


class Watchdog:
    """Watches one thread's calls into plugins. Without a timer it only calls.

    Args:
        timer: real seconds, the scale of deadlines.
    """

    def __init__(self, timer: Callable[[], float] = perf_counter) -> None:
        self._timer = timer
        self._inside: str | None = None
        self._deadline = math.inf
        self._cut = False
        """A call was cut and has not ended: the cut may have been lost in a destructor or a collector's callback."""
        self._suspect: tuple[str, float] | None = None
        self._strikes: dict[str, int] = {}
        self._benched: dict[str, float] = {}
        self._resting, self._quiet = True, 0
        self._start_timer = self._stop_timer = do_nothing

    def use_timer(self, start: Callable[[], None], stop: Callable[[], None]) -> None:
        """Have a timer that calls :meth:`tick` from ``start`` to ``stop``."""
        self._start_timer, self._stop_timer = start, stop
        self._resting = True

    def begin(self, deadline: float) -> None:
        """A decision begins: calls from now on may be cut once ``deadline`` is past."""
        self._deadline = deadline
        self._quiet = 0
        if self._resting:
            self._resting = False
            self._start_timer()

    def call(self, plugin: str, function: Callable[[*Args], T], *args: *Args) -> T:
        """Call into a plugin.

        Raises:
            PluginTimeoutError: it was cut off.
            PluginBenchedError: it was cut off too often lately and was not called.
            Exception: whatever the plugin raises.
        """
        if self._benched:
            self._refuse_benched(plugin)
        self._inside = plugin
        try:
            result = function(*args)
        finally:
            # A tick before this line raises into the caller's handler, and has unset it itself; after it none does.
            self._inside = None
            self._cut = False
        if self._strikes:
            self._strikes.pop(plugin, None)
        return result

    def core(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """Run the picker's own code that a plugin called back into: it is not to be cut."""
        plugin, self._inside = self._inside, None
        cut, self._cut = self._cut, False
        try:
            return function(*args)
        finally:
            self._inside, self._cut = plugin, cut

    def tick(self) -> None:
        """Look whether a call takes too long.

        Only one that is found under way at two ticks behind its deadline is: what is at fault for being late is not
        the plugin that happens to run when the time is up.

        Raises:
            PluginTimeoutError: into the call under way.
        """
        plugin = self._inside
        if self._cut:
            self._cut = False
            raise PluginTimeoutError("cut off once more: it went on after the first time")
        if plugin is None:
            self._quiet += 1
            if self._quiet >= IDLE_TICKS and not self._resting:
                self._resting = True
                self._stop_timer()
            return
        now = self._timer()
        if now <= self._deadline:
            return
        suspect = (plugin, self._deadline)
        if self._suspect != suspect:
            self._suspect = suspect
            return
        self._inside = self._suspect = None
        self._cut = True
        strikes = self._strikes[plugin] = self._strikes.get(plugin, 0) + 1
        if strikes >= STRIKES:
            del self._strikes[plugin]
            self._benched[plugin] = now + BENCH_SECONDS
        raise PluginTimeoutError(f"cut off {(now - self._deadline) * 1000:.0f} ms after the pick's deadline")

    def _refuse_benched(self, plugin: str) -> None:
        until = self._benched.get(plugin)
        if until is None:
            return
        if self._timer() < until:
            raise PluginBenchedError(f"left out after {STRIKES} time-outs in a row")
        del self._benched[plugin]


def report(observer: Observer, plugin: str, point: str, error: Exception) -> None:
    """Count a plugin's failure, whichever it is."""
    if isinstance(error, PluginBenchedError):
        observer.degraded("benched")
        return
    observer.plugin_failed(plugin, point, error)
    if isinstance(error, PluginTimeoutError):
        observer.degraded("watchdog")
