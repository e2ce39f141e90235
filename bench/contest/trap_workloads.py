"""Requests that the traps are made of, and what is read of their runs."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

import msgspec

from pointsman.lab.compare import listens
from pointsman.lab.options import FleetOptions
from pointsman.lab.policies import policy_source, with_documented_scraping
from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.lab.results import Row, RunResult, percentile
from pointsman.lab.runner import Run
from pointsman.lab.workloads.arrivals import Stage, ladder


def ids(name: str, count: int) -> array[int]:
    """Token ids that depend on the name alone."""
    return array("I", Random(name).randbytes(4 * count))


def question(number: int, at: float, prefix: str, sizes: tuple[int, int, int], *, warm_up: bool = False) -> LabRequest:
    """A prompt of its own behind a shared beginning; ``sizes``: tokens of beginning, of its own, of the answer."""
    tokens = ids(prefix, sizes[0]) + ids(f"own {number}", sizes[1])
    return LabRequest(id=f"{prefix}/{number}", arrival=at, tokens=tokens, max_tokens=sizes[2], warm_up=warm_up)


def poisson(
    prefixes: Sequence[str], stages: Sequence[Stage], sizes: tuple[int, int, int], seed: int = 1
) -> list[LabRequest]:
    """Questions behind prefixes, each prefix once a round in another order, at Poisson times."""
    rng = Random(f"{seed}/order")
    left: list[str] = []
    found = []
    for number, (at, stage) in enumerate(ladder(stages, Random(f"{seed}/times"))):
        if not left:
            left = rng.sample(prefixes, len(prefixes))
        found.append(question(number, at, left.pop(), sizes, warm_up=stage.warm_up))
    return found


def played(policy: str, requests: Iterable[LabRequest], fleet: FleetOptions) -> RunResult:
    """A policy on requests, with gauges as its router reads them unless the trap is about that."""
    workload = FixedWorkload("trap", tuple(sorted(requests, key=lambda one: one.arrival)))
    plain = fleet.scrape_period == FleetOptions().scrape_period
    options = with_documented_scraping(policy, fleet) if plain else fleet
    run = Run(policy_source(policy), workload, options)
    if not listens(run.director.plan):  # without events a run takes a third less time
        run = Run(policy_source(policy), workload, msgspec.structs.replace(options, events=False))
    return run.run()


def prefix_of(row: Row) -> str:
    """The shared beginning's name."""
    return row.id.rpartition("/")[0]


def between(rows: Iterable[Row], begin: float, end: float) -> list[Row]:
    """Those answered that arrived within."""
    return [row for row in rows if begin <= row.arrival < end and row.ok]


def hits(rows: Sequence[Row]) -> float:
    """Share of prompt tokens found in a cache; 0 without any."""
    prompt = sum(row.prompt_tokens for row in rows)
    return sum(row.cached_tokens for row in rows) / prompt if prompt else 0.0


def ttft(rows: Sequence[Row], share: float | None = None) -> float:
    """Milliseconds: the mean, or a percentile; infinite when there are no rows."""
    times = sorted(row.ttft_ms for row in rows)
    if not times:
        return float("inf")
    return sum(times) / len(times) if share is None else percentile(times, share)


def fullest(rows: Iterable[Row]) -> int:
    """Requests on the pod with the most."""
    return max(Counter(row.pod for row in rows).values())


def unevenness(result: RunResult, begin: float, end: float) -> float:
    """Largest load of a pod over the mean of all, both over that time; 0 when nothing was running."""
    samples = [sample for sample in result.load if begin <= sample.at < end]
    loads = [sum(map(sum, zip(one.running, one.waiting, strict=True))) for one in samples]
    if not sum(loads):
        return 0.0
    pods = len(samples[-1].running)
    of_pod = [
        sum(one.running[pod] + one.waiting[pod] for one in samples if pod < len(one.running)) for pod in range(pods)
    ]
    return max(of_pod) * pods / sum(of_pod)
