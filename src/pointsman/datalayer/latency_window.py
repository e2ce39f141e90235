"""Quantiles of what an engine measured lately, from the growth of its cumulative histograms. Pure."""

from __future__ import annotations

from collections import deque
from functools import reduce

from pointsman.api.endpoint import Quantiles
from pointsman.datalayer.reading import Histogram, Reading

WINDOW = 30.0
"""Seconds that the quantiles look back on, about."""
EVERY = 5.0
"""Seconds between two looks at the histograms, which are half of the cost of a page."""


class LatencyWindow:
    """Remembers one pod's histograms for a while."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._past: deque[tuple[float, Histogram | None, Histogram | None]] = deque()
        self.ttft: Quantiles | None = None
        self.itl: Quantiles | None = None

    def add(self, reading: Reading, now: float) -> None:
        """Take note of a reading with histograms, made at ``now`` seconds of any clock."""
        ttft = _together([rank.ttft for rank in reading.ranks])
        itl = _together([rank.itl for rank in reading.ranks])
        past = self._past
        # The youngest reading older than the window stays: the growth since then covers all of it.
        while len(past) > 1 and past[1][0] <= now - self._window:
            past.popleft()
        if past:
            _, old_ttft, old_itl = past[0]
            self.ttft, self.itl = _quantiles(ttft, old_ttft), _quantiles(itl, old_itl)
            if _restarted(ttft, old_ttft) or _restarted(itl, old_itl):
                past.clear()
        past.append((now, ttft, itl))


def _together(histograms: list[Histogram | None]) -> Histogram | None:
    known = [histogram for histogram in histograms if histogram is not None]
    return reduce(Histogram.plus, known) if known else None


def _quantiles(now: Histogram | None, before: Histogram | None) -> Quantiles | None:
    growth = now.since(before) if now is not None else None
    if growth is None:
        return None
    return Quantiles(growth.quantile(0.5), growth.quantile(0.95), int(growth.count))


def _restarted(now: Histogram | None, before: Histogram | None) -> bool:
    return now is not None and before is not None and (now.count < before.count or now.bounds != before.bounds)
