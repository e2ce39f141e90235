"""What a cached block is worth by the memory it is in: parameters, and the worth of a match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.errors import ConfigError
from pointsman.framework.kv import KvMatch
from pointsman.framework.plugin import Params
from pointsman.kvcache.kv_index import CPU, DEFAULT_TIER_WEIGHTS, DISK, GPU
from pointsman.kvcache.residency import TIER_NAMES

Weights = tuple[float, float, float]
"""Worth of a block in GPU memory, in CPU memory, and on disk or remote, 0 to 1."""


class Backend(Params, frozen=True):
    """A kind of memory, and what a block in it is worth."""

    name: str
    weight: Annotated[float, Meta(ge=0, le=1)]


def tier_weights(backends: Sequence[Backend], field: str) -> Weights:
    """Weights by tier. One left out has its default (GPU 1, CPU 0.8, disk 0.5), but no more than a faster one.

    Disk also stands for every medium that an engine names and nobody here knows.

    Args:
        backends: as configured; names of :data:`pointsman.kvcache.residency.TIER_NAMES` in any case.
        field: where they were configured, for messages.

    Raises:
        ConfigError: on a name not known, or two weights for one tier.
    """
    given: dict[int, float] = {}
    for at, backend in enumerate(backends):
        tier = TIER_NAMES.get(backend.name.upper())
        if tier is None:
            known = ", ".join(name.lower() for name in TIER_NAMES)
            raise ConfigError(
                f"{backend.name!r} is no kind of memory", field=f"{field}[{at}].name", hint=f"one of {known}"
            )
        if given.setdefault(tier, backend.weight) != backend.weight:
            raise ConfigError(
                f"{backend.name!r} is of a tier that has the weight {given[tier]:g} already",
                field=f"{field}[{at}].weight",
                hint="give one weight to each of gpu, cpu and disk",
            )
    gpu = given.get(GPU, DEFAULT_TIER_WEIGHTS[GPU])
    cpu = given.get(CPU, min(DEFAULT_TIER_WEIGHTS[CPU], gpu))
    disk = given.get(DISK, min(DEFAULT_TIER_WEIGHTS[DISK], gpu, cpu))
    return gpu, cpu, disk


def worths(
    found: KvMatch, sure: Sequence[Endpoint], blocks: Sequence[int], unit: int, weights: Weights
) -> Sequence[float]:
    """Worth of a match, in blocks by slot; empty when every block counts in full, which costs next to nothing.

    Args:
        found: what the engines say.
        sure: endpoints whose word counts; of the others a block is taken to be in GPU memory.
        blocks: matched by slot.
        unit: tokens per block.
        weights: by tier.
    """
    gpu, cpu, disk = weights
    if gpu == 1 and not found.slower:
        return ()
    worth = [count * gpu for count in blocks]
    for endpoint in sure:
        in_cpu, on_disk = found.slower.get(endpoint.slot, (0, 0))
        worth[endpoint.slot] -= (in_cpu * (gpu - cpu) + on_disk * (gpu - disk)) / unit
    return worth
