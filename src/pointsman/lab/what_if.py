"""What if there were more pods, a larger cache, more load: a grid of simulated fleets, and the least that is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pointsman.errors import ConfigError
from pointsman.lab.compare import compare
from pointsman.lab.compare_specs import RunSpec, WorkloadSource
from pointsman.lab.options import FleetOptions
from pointsman.lab.replay_parts import Faster
from pointsman.lab.tune_goals import Limit, figure_of

ENOUGH = 0.99
"""Share of requests that must be answered for a fleet to be enough, whatever the goal."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One fleet under one load. ``enough`` is None without a goal."""

    pods: int
    kv_tokens: int
    speed: float
    p50_ttft_ms: float | None
    p95_ttft_ms: float | None
    hit_rate: float
    success: float
    output_tokens_per_s: float
    enough: bool | None = None


def what_if(
    policy: str,
    workload: WorkloadSource,
    fleet: FleetOptions,
    *,
    pods: Sequence[int],
    kv_tokens: Sequence[int],
    speeds: Sequence[float],
    goal: Limit | None = None,
    jobs: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Cell]:
    """Simulate every combination.

    Args:
        policy: name or file.
        workload: at a speed of 1.
        fleet: all else about it.
        pods: numbers of pods.
        kv_tokens: sizes of a pod's KV cache; empty: the profile's.
        speeds: of the workload.
        goal: what must be met.
        jobs: processes; 0: as many as there are cores.
        progress: told of runs that ended.

    Returns:
        By speed, cache, pods.

    Raises:
        ConfigError: if a number makes no sense or something cannot be run.
    """
    sizes = list(kv_tokens) or [fleet.profile.kv_tokens]
    for value in pods:
        if value < 1:
            raise ConfigError("must be at least 1", field="--pods")
    for value in sizes:
        if value < fleet.profile.block_size:
            raise ConfigError(f"{value} tokens hold no block of {fleet.profile.block_size}", field="--kv-tokens")
    places = [(speed, size, count) for speed in speeds for size in sizes for count in pods]
    specs = [
        RunSpec(
            policy=policy,
            workload=Faster(whole=workload, speed=speed) if speed != 1 else workload,
            options=_fleet(fleet, count, size),
        )
        for speed, size, count in places
    ]
    results = compare(specs, jobs, progress)
    cells = []
    for (speed, size, count), found in zip(places, results, strict=True):
        rows, figures = found.result.measured(), found.result.summary()
        ttft = msgspec.convert(figures["ttft_ms"], dict[str, float | None])
        success = float(str(figures["success"]))
        enough = None if goal is None else goal.met(figure_of(goal.goal, rows)) and success >= ENOUGH
        cells.append(
            Cell(
                pods=count,
                kv_tokens=size,
                speed=speed,
                p50_ttft_ms=ttft["p50"],
                p95_ttft_ms=ttft["p95"],
                hit_rate=float(str(figures["hit_rate"])),
                success=success,
                output_tokens_per_s=float(str(figures["output_tokens_per_s"])),
                enough=enough,
            )
        )
    return cells


def smallest(cells: Sequence[Cell]) -> dict[float, Cell | None]:
    """By speed, the fleet with the fewest pods that is enough, and among those the smallest cache; None: none is."""
    found: dict[float, Cell | None] = {}
    for cell in cells:
        best = found.setdefault(cell.speed, None)
        if cell.enough and (best is None or (cell.pods, cell.kv_tokens) < (best.pods, best.kv_tokens)):
            found[cell.speed] = cell
    return found


def _fleet(fleet: FleetOptions, pods: int, kv_tokens: int) -> FleetOptions:
    profile = fleet.profile
    # Where a prompt may be as long as the cache, it may still be: a smaller cache must refuse, not wait for ever.
    longest = min(profile.max_model_len, kv_tokens)
    return msgspec.structs.replace(
        fleet, pods=pods, profile=msgspec.structs.replace(profile, kv_tokens=kv_tokens, max_model_len=longest)
    )
