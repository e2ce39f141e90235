"""The cells of the contest: a workload, a load and a fleet each.

Loads were set by trying: in ``below`` cells a good policy keeps waiting short, some of them are near the edge, where
poor ones tip over; ``beyond`` cells bring more than any policy can carry. Eight pods of Qwen3-32B on 2xH100 unless the
name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from contest.workloads import OwnWorkload, trace_part
from pointsman.lab.compare_specs import NamedWorkload, RunSpec, WorkloadSource
from pointsman.lab.options import FleetOptions
from pointsman.lab.policies import with_documented_scraping
from pointsman.sim.profiles import DEFAULT_PROFILE, EngineProfile, find_profile

Kind = Literal["ladder", "below", "beyond"]
Make = Callable[[int], WorkloadSource]
"""A workload of a seed, counted from 1."""
PROFILE = find_profile(DEFAULT_PROFILE)
EDGE = 10
"""Seeds where the edge of capacity makes a cell noisy."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One of them.

    Attributes:
        name: for ``--cells`` and tables.
        kind: what is asked of it; see :mod:`contest.aims`.
        make: the workload.
        fleet: the pods.
        seeds: unless told otherwise.
        trace: file it needs, ``""`` for none.
    """

    name: str
    kind: Kind
    make: Make
    fleet: FleetOptions = msgspec.field(default_factory=FleetOptions)
    seeds: int = 3
    trace: str = ""

    def spec(self, policy: str, seed: int) -> RunSpec:
        """One run of it."""
        fleet = with_documented_scraping(policy, msgspec.structs.replace(self.fleet, seed=seed))
        return RunSpec(policy=policy, workload=self.make(seed), options=fleet)


def profile(kv_tokens: int = PROFILE.kv_tokens, max_num_seqs: int = PROFILE.max_num_seqs) -> EngineProfile:
    """The engine with another cache, and a length limit that is all of it, as for a recorded trace."""
    return msgspec.structs.replace(
        PROFILE, kv_tokens=kv_tokens, max_model_len=max(kv_tokens, PROFILE.max_model_len), max_num_seqs=max_num_seqs
    )


def named(name: str, qps: float, scale: float) -> Make:
    """A workload of the lab's catalogue."""
    return lambda seed: NamedWorkload(name=name, qps=qps, scale=scale, seed=seed)


def own(name: Literal["zipf", "code"], qps: float, scale: float) -> Make:
    """A workload of the contest's."""
    return lambda seed: OwnWorkload(name=name, qps=qps, scale=scale, seed=seed)


LADDER = (3, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60)
"""Requests a second; a minute of warm-up, then 30 s."""


def synthetic() -> list[Cell]:
    """Those that need no file."""
    loras = FleetOptions(max_loras=4)
    ladder = [
        Cell(name=f"brief-{qps}", kind="ladder", make=named("brief", qps, 0.2), seeds=EDGE if 10 <= qps <= 20 else 3)
        for qps in LADDER
    ]
    return [
        *ladder,
        Cell(name="chat-20", kind="below", make=named("chat", 20, 0.3)),
        Cell(name="chat-60", kind="below", make=named("chat", 60, 0.2)),
        Cell(name="agentic-made-up", kind="below", make=named("agentic", 5, 0.3)),
        Cell(name="lora-20", kind="below", make=named("lora", 20, 0.4), fleet=loras),
        Cell(name="lora-40", kind="below", make=named("lora", 40, 0.4), fleet=loras),
        Cell(name="zipf-15", kind="below", make=own("zipf", 15, 0.5)),
        Cell(name="zipf-25", kind="below", make=own("zipf", 25, 0.5), seeds=EDGE),
        Cell(name="long-mix-10", kind="below", make=named("long-mix", 10, 0.5)),
        Cell(name="long-mix-20", kind="below", make=named("long-mix", 20, 0.5)),
        Cell(name="bursty-20", kind="below", make=named("bursty", 20, 0.5)),
        Cell(name="best-of-8", kind="below", make=named("best-of-n", 15, 0.5)),
        Cell(name="code-30", kind="below", make=own("code", 30, 0.4)),
        *fleets(),
        Cell(name="zipf-75", kind="beyond", make=own("zipf", 75, 0.3)),
        Cell(name="lora-100", kind="beyond", make=named("lora", 100, 0.3), fleet=loras),
        Cell(name="long-mix-60", kind="beyond", make=named("long-mix", 60, 0.3)),
        Cell(name="brief-10-on-4-pods", kind="beyond", make=named("brief", 10, 0.4), fleet=FleetOptions(pods=4)),
    ]


def fleets() -> list[Cell]:
    """Other fleets and caches."""
    half, small = FleetOptions(profile=profile(kv_tokens=PROFILE.kv_tokens // 2)), FleetOptions(pods=3)
    large, mixed = FleetOptions(pods=16), FleetOptions(speeds=(1, 1, 1, 1, 1.5, 1.5, 1.5, 1.5))
    few = FleetOptions(profile=profile(max_num_seqs=20))
    return [
        Cell(name="chat-40-on-3-pods", kind="below", make=named("chat", 40, 0.2), fleet=small),
        Cell(name="zipf-40-on-16-pods", kind="below", make=own("zipf", 40, 0.4), fleet=large),
        Cell(name="brief-6-half-the-cache", kind="below", make=named("brief", 6, 0.4), fleet=half),
        Cell(name="zipf-15-20-sequences", kind="below", make=own("zipf", 15, 0.5), fleet=few),
        Cell(name="zipf-15-mixed-speeds", kind="below", make=own("zipf", 15, 0.5), fleet=mixed),
    ]


def recorded(folder: Path) -> list[Cell]:
    """Those of real traces, where the files are there.

    Agents' prompts are 122,000 tokens long on average, so their engines have four times the cache. A part of the
    recording has some twenty sessions that think most of the time: it is played faster, on three pods.
    """
    wide = FleetOptions(profile=profile())
    vast = FleetOptions(pods=3, profile=profile(4 * PROFILE.kv_tokens))

    def mooncake(speed: float) -> Make:
        return lambda seed: trace_part(folder / MOONCAKE, "mooncake", speed, 300, seed, 11)

    def azure(speed: float) -> Make:
        return lambda seed: trace_part(folder / AZURE, "azure", speed, 400 if speed < 20 else 800, seed, 4)

    def agents(speed: float) -> Make:
        return lambda seed: trace_part(folder / AGENTS, "agentic", speed, 250, seed, 3)

    return [
        Cell(name="mooncake-0.6", kind="below", make=mooncake(0.6), fleet=wide, trace=MOONCAKE),
        Cell(name="mooncake-1", kind="below", make=mooncake(1.0), fleet=wide, trace=MOONCAKE),
        Cell(name="mooncake-1.5", kind="below", make=mooncake(1.5), fleet=wide, trace=MOONCAKE),
        Cell(name="agentic", kind="below", make=agents(2.5), fleet=vast, trace=AGENTS),
        Cell(name="azure-8", kind="below", make=azure(8), trace=AZURE),
        Cell(name="azure-11", kind="below", make=azure(11), trace=AZURE),
        Cell(name="mooncake-3", kind="beyond", make=mooncake(3.0), fleet=wide, trace=MOONCAKE),
        Cell(name="azure-25", kind="beyond", make=azure(25), trace=AZURE),
    ]


MOONCAKE, AZURE = "mooncake_conversation.jsonl", "azure2023_conv.csv"
AGENTS = "weka_agentic_flat_delta.jsonl.gz"
QUICK = ("brief-3", "brief-10", "zipf-15", "long-mix-10", "mooncake-1", "azure-11", "long-mix-60")
"""A few of each kind, one seed."""


def all_cells(folder: Path | None) -> list[Cell]:
    """Every cell there is; those of traces whose file is in the folder."""
    found = recorded(folder) if folder else []
    return [*synthetic(), *(cell for cell in found if folder and (folder / cell.trace).is_file())]
