"""When requests arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple


class Stage(NamedTuple):
    """So many requests per second for so many seconds."""

    qps: float
    seconds: float
    warm_up: bool = False


def ladder(stages: Sequence[Stage], rng: Random) -> Iterator[tuple[float, Stage]]:
    """Poisson arrivals, stage after stage. The gap that crosses a stage's end is drawn anew: the process forgets."""
    begin = 0.0
    for stage in stages:
        end = begin + stage.seconds
        now = begin
        while stage.qps > 0 and (now := now + rng.expovariate(stage.qps)) < end:
            yield now, stage
        begin = end


def gamma(qps: float, cv: float, seconds: float, rng: Random) -> Iterator[float]:
    """Arrivals with gamma-distributed gaps: 1/qps on average, standard deviation ``cv`` times that.

    ``cv`` 1 is Poisson, above it comes in bursts: shape 1/cv², scale cv²/qps.
    """
    shape, scale = 1 / cv**2, cv**2 / qps
    now = 0.0
    while (now := now + rng.gammavariate(shape, scale)) < seconds:
        yield now
