"""How often each pod is read. Pure: no clock, no randomness.

A pod whose gauges move is read at the fast end, one that stays busy without moving more slowly, an idle one seldom:
nothing happens there that the ledger does not see first. All of it within a budget: when what readings cost comes to
more of a core than is allowed, every period is stretched by the same factor.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

MIN_GOOD_FOR = 2.0
"""Seconds for which a reading counts as fresh at the least."""
PERIODS_GOOD_FOR = 3.0
_SMOOTHING = 0.05
_UNMEASURED = 0.0003
"""Seconds of CPU that a reading is taken to cost until some were measured."""


class Rhythm(msgspec.Struct, frozen=True):
    """Seconds between two readings of one pod, by what is going on there."""

    moving: float = 0.2
    """Its gauges change."""
    steady: float = 1.0
    """It is busy, and its gauges stay as they are."""
    idle: float = 5.0
    """Nothing is in flight there, and its gauges say so too."""
    down: float = 1.0
    """It does not answer."""


def rhythm(period: float) -> Rhythm:
    """The rhythm around the period of a pod whose gauges move, in seconds."""
    return Rhythm(moving=period, steady=5 * period, idle=max(period, min(5.0, 25 * period)), down=min(1.0, 5 * period))


class Seen(msgspec.Struct, frozen=True):
    """What one reading tells about how soon the next is wanted."""

    failures: int = 0
    """Readings in a row that got no answer, this one included."""
    changed: bool = False
    """The gauges are others than before."""
    busy: bool = False
    """Something is in flight there by our ledger, or the gauges are not zero."""


def next_period(pace: Rhythm, last: float, seen: Seen) -> float:
    """Seconds until the next reading, before stretching.

    Args:
        pace: the rhythm.
        last: what this function said the last time.
        seen: the reading in between.
    """
    if seen.failures:
        # The second look at a silent pod decides; from then on there is less hurry.
        return min(pace.down, pace.moving / 2 * 2.0 ** min(seen.failures - 1, 16))
    if seen.changed:
        return pace.moving
    if seen.busy:
        return min(pace.steady, max(pace.moving, 1.5 * last))
    return min(pace.idle, max(pace.moving, 2 * last))


def good_for(period: float) -> float:
    """Seconds for which a reading counts as fresh when the next one is due after ``period`` seconds."""
    return max(MIN_GOOD_FOR, PERIODS_GOOD_FOR * period)


class Budget:
    """Keeps the cost of all readings within a share of one core.

    Args:
        share: of one core, above 0; 0.05 is fifty milliseconds in each second.
    """

    def __init__(self, share: float = 0.05) -> None:
        if share <= 0:
            raise ValueError(f"the budget must be above 0, got {share}")
        self._share = share
        self._rates: dict[Hashable, float] = {}
        self._rate = 0.0
        self._cost = _UNMEASURED

    @property
    def cost(self) -> float:
        """Seconds of CPU that a reading costs, smoothed."""
        return self._cost

    @property
    def wanted(self) -> float:
        """Share of a core that all readings would take without stretching."""
        return self._cost * self._rate

    def spent(self, seconds: float) -> None:
        """One reading cost this many seconds of CPU."""
        self._cost += _SMOOTHING * (seconds - self._cost)

    def want(self, who: Hashable, period: float) -> None:
        """One reader would like to read every ``period`` seconds."""
        rate = 1.0 / period
        self._rate += rate - self._rates.get(who, 0.0)
        self._rates[who] = rate

    def drop(self, who: Hashable) -> None:
        """One reader is gone."""
        self._rates.pop(who, None)
        # Summed anew, so that rounding does not add up over the years.
        self._rate = sum(self._rates.values())

    def stretch(self) -> float:
        """Factor on every period, at least 1."""
        return max(1.0, self.wanted / self._share)
