"""``pointsman what-if``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pointsman.cli.common import print_json
from pointsman.cli.lab_flags import WorkloadFlags, numbers
from pointsman.cli.replay_flags import (
    AsJson,
    RecordsFile,
    SimulatedFlags,
    described,
    milliseconds,
    percent,
    progress_bar,
)
from pointsman.errors import ConfigError
from pointsman.lab.tune_goals import Limit, read_limit
from pointsman.lab.what_if import Cell, smallest
from pointsman.lab.what_if import what_if as run_all
from pointsman.sim.profiles import DEFAULT_PROFILE


def what_if(
    *,
    policy: str = "default",
    pods: Annotated[str, Parameter(help="Numbers of pods to try.")] = "4,6,8,12",
    kv_tokens: Annotated[str, Parameter(help="Sizes of a pod's KV cache to try, tokens; by default one.")] = "",
    speed: Annotated[str, Parameter(help="Multiples of the load to try.")] = "1",
    goal: str = "p95_ttft<500",
    workload: str = "brief",
    qps: float | None = None,
    trace: Path | None = None,
    format_: Annotated[str, Parameter(name="--format")] = "auto",
    records: RecordsFile = None,
    slice_: Annotated[str, Parameter(name="--slice")] = "",
    limit: int | None = None,
    scale: float = 1.0,
    seed: int = 1,
    profile: str = DEFAULT_PROFILE,
    jobs: int = 0,
    as_json: AsJson = False,
) -> int:
    """How many pods do I need? Simulates fleets of several sizes under several loads, and names the least that will do.

    ```console
    pointsman what-if --pods 4,6,8,12 --speed 1,1.5,2 --workload chat --qps 8 --goal "p95_ttft<500"
    pointsman what-if --records /var/lib/pointsman/records --pods 3,4,5,6 --kv-tokens 200000,450000
    pointsman what-if --trace conversation.jsonl --slice 0:600 --pods 6,8 --goal "p50_ttft<=200" --json
    ```

    Parameters
    ----------
    policy
        A policy (see `pointsman compare --list-policies`) or a YAML file.
    goal
        What is enough: p50_ttft, p90_ttft, p95_ttft, p99_ttft, mean_ttft (ms), hit_rate, success or throughput
        (tokens/s), with <, <=, > or >=. At least 99 % of the requests must be answered in any case.
    workload
        A made-up workload: brief, chat, agentic, best-of-n, long-mix, lora or bursty.
    qps
        Its load at a speed of 1, requests per second.
    trace
        A recorded workload instead.
    format_
        Its format; auto: guess.
    slice_
        Only FROM:TO of trace or records, in seconds.
    limit
        Only the first so many requests of trace or records.
    scale
        Size of the made-up workload: 0.1 is a tenth of the requests.
    seed
        Of prompts, order, arrival times and random picks.
    profile
        Engine, or a file of `pointsman calibrate`.
    jobs
        Processes; 0: as many as there are cores.
    """
    wanted = read_limit(goal)
    asked = WorkloadFlags(
        workload=workload, trace=trace, format=format_, slice=slice_, limit=limit, scale=scale, seed=seed
    )
    source, options, _ = described(policy, asked, records, SimulatedFlags(profile=profile), qps)
    with progress_bar() as bar:
        cells = run_all(
            policy,
            source,
            options,
            pods=_whole(pods, "--pods"),
            kv_tokens=_whole(kv_tokens, "--kv-tokens") if kv_tokens else (),
            speeds=numbers(speed, "--speed"),
            goal=wanted,
            jobs=jobs,
            progress=bar.tell,
        )
    if as_json:
        print_json(_as_data(cells, wanted))
    else:
        _show(cells, wanted, f"{policy} on {source.label}")
    return 0


def _whole(text: str, flag: str) -> list[int]:
    found = numbers(text, flag)
    if any(number != int(number) for number in found):
        raise ConfigError("needs whole numbers", field=flag)
    return [int(number) for number in found]


def _as_data(cells: list[Cell], goal: Limit) -> dict[str, object]:
    enough = [{"speed": speed, "fleet": msgspec.to_builtins(cell)} for speed, cell in smallest(cells).items()]
    return {"goal": str(goal), "cells": msgspec.to_builtins(cells), "smallest": enough}


def _show(cells: list[Cell], goal: Limit, title: str) -> None:
    console = Console(highlight=False)
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=escape(title),
        title_justify="left",
        caption=f"time to first token (P50, P95) in ms; enough: {escape(str(goal))}",
        caption_justify="left",
    )
    for name in ("load", "pods", "KV tokens", "P50", "P95", "hits", "answered", "tokens/s", "enough"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        table.add_row(
            f"×{cell.speed:g}",
            str(cell.pods),
            f"{cell.kv_tokens:,}",
            milliseconds(cell.p50_ttft_ms),
            milliseconds(cell.p95_ttft_ms),
            percent(cell.hit_rate),
            f"{cell.success:.1%}",
            f"{cell.output_tokens_per_s:,.0f}",
            "[green]yes[/]" if cell.enough else "[red]no[/]",
        )
    console.print(table)
    for speed, least in smallest(cells).items():
        fleet = f"{least.pods} pods with {least.kv_tokens:,} KV tokens" if least is not None else "none of these fleets"
        console.print(f"Enough for {escape(str(goal))} at ×{speed:g}: [bold]{fleet}[/]")
