"""Which pods are slower or faster than the others, from their decode steps.

A pod's TTFT tells as much of its queue as of its speed; the length of its steps, for batches alike, tells its speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from pointsman.api.endpoint import EndpointId

DEAD_BAND = 1.3
"""Pods that differ by less count as equal: what is left of noise must not pull requests off warm caches."""
MOST = 4.0
"""So that a pod that is fast again gets requests to show it."""
_LEAST_COUNT = 5
_RATE = 0.1
_MOST_RATIO = 100.0


class _Pace:
    """How much longer than expected one pod's steps take: a smoothed logarithm."""

    __slots__ = ("count", "log")

    def __init__(self) -> None:
        self.count, self.log = 0, 0.0


class Paces:
    """Of all pods. One owner, one thread."""

    def __init__(self) -> None:
        self._pods: dict[EndpointId, _Pace] = {}

    def add(self, endpoint: EndpointId, ratio: float) -> None:
        """A step took ``ratio`` times as long as it should have, 0 or more."""
        pod = self._pods.get(endpoint)
        if pod is None:
            pod = self._pods[endpoint] = _Pace()
        pod.count += 1
        ratio = min(_MOST_RATIO, max(1 / _MOST_RATIO, ratio))
        pod.log += max(_RATE, 1 / pod.count) * (math.log(ratio) - pod.log)

    def forget(self, endpoint: EndpointId) -> None:
        """An endpoint is gone."""
        self._pods.pop(endpoint, None)

    def slowness(self) -> Mapping[EndpointId, float]:
        """Steps of each pod over the median pod's: 2 is half as fast; from 1/4 to 4. Those seen five times and more."""
        known = {endpoint: pod.log for endpoint, pod in self._pods.items() if pod.count >= _LEAST_COUNT}
        middle = median(known.values()) if known else 0.0
        return {endpoint: min(MOST, max(1 / MOST, math.exp(log - middle))) for endpoint, log in known.items()}

    def outstanding(self) -> Mapping[EndpointId, float]:
        """Those outside the dead band."""
        return {pod: pace for pod, pace in self.slowness().items() if not 1 / DEAD_BAND <= pace <= DEAD_BAND}
