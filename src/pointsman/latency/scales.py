"""Two factors learnt from one noisy measurement after another: a Kalman filter that does not believe outliers.

``y = first * x1 + second * x2``, where both factors are 1 at first and wander slowly (a random walk). A measurement far
from what was expected counts less (Huber), the more so when it is too long: a queue that nobody knew of makes times
longer, nothing makes them shorter. When measurements keep to one side (a two-sided CUSUM, Page 1954), the factors are
declared uncertain again and follow within a few measurements.
"""

from __future__ import annotations

import math

LEAST, MOST = 0.1, 10.0
"""Factors stay between these."""
_VARIANCE = 4.0
"""Of both factors at first: a seed three times too low is an error of 1 standard deviation."""
_TIED = 0.99
"""Correlation of the two: an engine that is slower is mostly slower at everything."""
_WANDER = 4e-6
"""Variance gained per measurement. With a noise of 10 % the filter then looks back on some 50 measurements."""
_FIRST_SPREAD = 0.5
_LEAST_SPREAD, _MOST_SPREAD = 0.01, 10.0
_SPREAD_RATE = 0.05
_NORMAL = 1.4826
"""Standard deviation over median size, of normal errors."""
_HUBER = 1.5
_SLACK, _ALARM, _CLIP = 0.6, 12.0, 2.0
"""CUSUM, in standard deviations: less than the slack is no drift; nine clipped steps in a row are an alarm."""
_DRIFTED = 0.08
"""Variance gained by an alarm: some five measurements then decide, not one, which may be the outlier that caused it."""


class Scales:
    """The two factors and how sure they are.

    Args:
        too_long: how much sooner a measurement is taken for an outlier that is longer than expected; 1 is even-handed.
            Small errors count the same on both sides, so that honest noise does not pull the factors down.
    """

    __slots__ = (
        "_above",
        "_below",
        "_p11",
        "_p12",
        "_p22",
        "_too_long",
        "count",
        "drifts",
        "first",
        "second",
        "spread",
    )

    def __init__(self, too_long: float = 1.0) -> None:
        self._too_long = too_long
        self.count = self.drifts = 0
        self._reset()

    def _reset(self) -> None:
        self.first = self.second = 1.0
        self._p11 = self._p22 = _VARIANCE
        self._p12 = _TIED * _VARIANCE
        self.spread = _FIRST_SPREAD
        """Median size of the errors: one in five may be an outlier. Relative when ``y`` is."""
        self._above = self._below = 0.0

    def learn(self, x1: float, x2: float, y: float, *, error_scale: float = 1.0) -> None:
        """One measurement.

        Args:
            x1: what belongs to the first factor.
            x2: what belongs to the second.
            y: what was measured; all three in the same unit, best a share of what was expected in all.
            error_scale: how much larger than usual its error is by nature.
        """
        error = y - self.first * x1 - self.second * x2
        deviation = _NORMAL * self.spread * error_scale
        size = abs(error) / deviation
        bound = _HUBER / self._too_long if error > 0 else _HUBER
        noise = deviation * deviation * max(1.0, size / bound)
        self._grow(_WANDER)
        g1, g2 = self._p11 * x1 + self._p12 * x2, self._p12 * x1 + self._p22 * x2
        total = g1 * x1 + g2 * x2 + noise
        k1, k2 = g1 / total, g2 / total
        first, second = self.first + k1 * error, self.second + k2 * error
        self._p11 -= k1 * g1
        self._p12 -= k1 * g2
        self._p22 -= k2 * g2
        if not (math.isfinite(first) and math.isfinite(second) and self._p11 > 0 and self._p22 > 0):
            self._reset()
            return
        self.first = min(MOST, max(LEAST, first))
        self.second = min(MOST, max(LEAST, second))
        self.count += 1
        self._watch(error, deviation, error_scale)

    def _watch(self, error: float, deviation: float, error_scale: float) -> None:
        rate = max(_SPREAD_RATE, 1.0 / (self.count + 1))
        larger = abs(error) > self.spread * error_scale
        self.spread = min(_MOST_SPREAD, max(_LEAST_SPREAD, self.spread * (1 + rate if larger else 1 / (1 + rate))))
        step = min(_CLIP, max(-_CLIP, error / deviation))
        self._above = max(0.0, self._above + step - _SLACK)
        self._below = max(0.0, self._below - step - _SLACK)
        if max(self._above, self._below) > _ALARM:
            self._above = self._below = 0.0
            self.drifts += 1
            self.spread = max(self.spread, 0.5 * _FIRST_SPREAD)
            self._grow(_DRIFTED)

    def _grow(self, variance: float) -> None:
        """Less sure of both, at most as little as at first: what is never measured must not become arbitrary."""
        if self._p11 + self._p22 + 2 * variance > 2 * _VARIANCE:
            if variance <= _WANDER:
                return
            self._p11 = self._p22 = _VARIANCE
            self._p12 = _TIED * _VARIANCE
            return
        self._p11 += variance
        self._p22 += variance
        self._p12 += _TIED * variance
