"""Lengths and contents of made-up prompts."""

from __future__ import annotations

import math
from array import array
from random import Random

from pointsman.lab.traces.prompts import Prompts


def lognormal(rng: Random, median: float, p95: float, low: int, high: int) -> int:
    """A length with that median and 95th percentile, kept within bounds."""
    sigma = math.log(p95 / median) / 1.645
    return min(high, max(low, round(rng.lognormvariate(math.log(median), sigma))))


class Texts:
    """Token ids by name, remembered for names that come again.

    Args:
        seed: of the workload.
    """

    def __init__(self, seed: int) -> None:
        self._prompts = Prompts(f"workload/{seed}")
        self._kept: dict[tuple[str, int], array[int]] = {}

    def shared(self, name: str, tokens: int) -> array[int]:
        """Those of a beginning that many prompts have."""
        found = self._kept.get((name, tokens))
        if found is None:
            found = self._kept[name, tokens] = self._prompts.stream(name, tokens)
        return found

    def own(self, name: str, tokens: int) -> array[int]:
        """Those of one prompt."""
        return self._prompts.stream(name, tokens)
