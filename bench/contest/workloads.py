"""Workloads of the contest that the lab's catalogue does not have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from pointsman.lab.compare_specs import TraceWorkload
from pointsman.lab.requests import LabRequest, Workload
from pointsman.lab.workloads.arrivals import gamma
from pointsman.lab.workloads.open_loop import OpenLoop
from pointsman.lab.workloads.tokens import lognormal


class Zipf(OpenLoop):
    """Questions behind 200 beginnings of 4,000 tokens, the most popular asked 200 times as often as the last."""

    name = "zipf"
    groups = 200

    def requests(self) -> Iterator[LabRequest]:
        rng = self.rng("lengths")
        sums = list(itertools.accumulate(1 / (rank + 1) for rank in range(self.groups)))
        for number, at in enumerate(self.poisson()):
            group = rng.choices(range(self.groups), cum_weights=sums)[0]
            tokens = self.texts.shared(f"group {group}", 4000) + self.texts.own(f"{number}", 600)
            yield LabRequest(id=f"r{number}", arrival=at, tokens=tokens, max_tokens=lognormal(rng, 250, 800, 10, 2000))


class Code(OpenLoop):
    """Prompts and answers as long as those of Azure's code-completion trace of 2023, without reuse, in bursts.

    Its medians are about 1,500 tokens in and 8 out (7,400 and 120 at the 95th percentile, rounded).
    """

    name = "code"
    cv = 4.0

    def requests(self) -> Iterator[LabRequest]:
        rng = self.rng("lengths")
        for number, at in enumerate(gamma(self.qps, self.cv, self.seconds, self.rng("times"))):
            tokens = self.texts.own(f"{number}", lognormal(rng, 1500, 7000, 30, 7400))
            yield LabRequest(id=f"r{number}", arrival=at, tokens=tokens, max_tokens=lognormal(rng, 8, 120, 1, 1000))


MAKERS = {"zipf": Zipf, "code": Code}


class OwnWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """One of this module's, as plain data; see :class:`pointsman.lab.compare_specs.WorkloadSource`."""

    name: Literal["zipf", "code"]
    qps: float
    seed: int = 1
    scale: float = 1.0

    @property
    def label(self) -> str:
        return self.name

    def open(self) -> Workload:
        return MAKERS[self.name](qps=self.qps, seed=self.seed, scale=self.scale)


def trace_part(path: Path, form: str, speed: float, seconds: float, seed: int, parts: int) -> TraceWorkload:
    """A part of a recorded trace: each seed another one, as far as the trace reaches.

    Args:
        path: the file.
        form: its format.
        speed: of the replay.
        seconds: of the trace, before it is sped up.
        seed: from 1; also of token ids and jitter.
        parts: how many parts of that length there are.
    """
    begin = seconds * ((seed - 1) % parts)
    return TraceWorkload(path=path, format=form, speed=speed, slice=(begin, begin + seconds), seed=seed)
