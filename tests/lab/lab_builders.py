"""Workloads in small."""

from __future__ import annotations

from array import array
from random import Random

from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.sim.workload import poisson_arrivals


def ids(name: str, count: int) -> array[int]:
    """Token ids that depend on the name alone."""
    return array("I", Random(name).randbytes(4 * count))


def shared_prefixes(
    *, groups: int = 6, variants: int = 5, qps: float = 4.0, prefix: int = 800, tail: int = 40, output: int = 30
) -> FixedWorkload:
    """Questions behind shared beginnings, in random order, Poisson."""
    rng = Random(5)
    pairs = [(group, variant) for group in range(groups) for variant in range(variants)]
    rng.shuffle(pairs)
    times = poisson_arrivals(qps, len(pairs), rng)
    requests = [
        LabRequest(
            id=f"r{number}",
            arrival=at,
            tokens=ids(f"group {group}", prefix) + ids(f"{group} {variant}", tail),
            max_tokens=output,
        )
        for number, ((group, variant), at) in enumerate(zip(pairs, times, strict=True))
    ]
    return FixedWorkload("shared prefixes", requests)
