"""``pointsman compare``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pointsman.cli.common import print_json
from pointsman.cli.lab_flags import FleetFlags, WorkloadFlags, numbers
from pointsman.errors import ConfigError
from pointsman.lab import report
from pointsman.lab.compare import Comparison
from pointsman.lab.compare import compare as run_all
from pointsman.lab.compare_specs import RunSpec
from pointsman.lab.html import check_writable, write_page
from pointsman.lab.policies import DESCRIPTIONS, POLICIES
from pointsman.lab.report_tables import print_comparison

DEFAULT_POLICIES = ("round-robin", "brief", "llm-d", "default")
BRIEF_LADDER = (3.0, 10.0, 20.0, 40.0, 60.0)
"""Requests per second of the published comparison, thinned out: it went from 3 to 60 in sixteen steps."""
LADDER_SCALE = 0.2
"""Length of each step of a ladder, as a share of a workload at one load: 30 s for brief, as published."""
_WIDE = 180
"""Characters a line where nobody says how many there are."""

Policies = Annotated[
    tuple[str, ...],
    Parameter(name="--policy", help="A policy (see --list-policies) or a YAML file. Repeat for each.", negative=()),
]
AsJson = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.", negative=())]
ListPolicies = Annotated[bool, Parameter(help="Print the names of the policies, and what each is.", negative=())]


def compare(
    *,
    policy: Policies = DEFAULT_POLICIES,
    asked: WorkloadFlags = WorkloadFlags(),  # noqa: B008 - frozen
    fleet: FleetFlags = FleetFlags(),  # noqa: B008 - frozen
    qps: float | None = None,
    ladder: str = "",
    seeds: int = 1,
    jobs: int = 0,
    html: Path | None = None,
    as_json: AsJson = False,
    list_policies: ListPolicies = False,
) -> int:
    """Compare policies on the same requests, in simulated time: the very picker that serves, on simulated engines.

    Without flags: the published comparison (150 system prompts of 6,000 tokens, 5 questions each, 8 pods) under a load
    that grows from 3 to 60 requests per second. Every policy gets a fresh fleet and the same requests at the same
    times; every result is also told as a share of what was achievable.

    ```console
    pointsman compare
    pointsman compare --workload brief --qps 20 --html report.html
    pointsman compare --ladder 5,10,15 --policy default --policy my-policy.yaml --seeds 5
    pointsman compare --trace conversation.jsonl --format mooncake --speed 2.5 --policy dynamo --policy default --json
    ```

    Parameters
    ----------
    qps
        Load of a made-up workload, requests per second; by default the workload's own, for brief a ladder.
    ladder
        Several loads, such as 3,10,20.
    seeds
        Repeat with so many seeds, from --seed on, and tell mean and standard deviation.
    jobs
        Runs at a time; by default as many as there are cores.
    html
        Also write a page with tables and charts that opens without a network.
    """
    if list_policies:
        _print_policies()
        return 0
    if html is not None:
        check_writable(html)
    specs = _specs(policy, asked, fleet, _loads(asked, qps, ladder), seeds)
    if jobs < 0:
        raise ConfigError("must not be below 0", field="--jobs")
    results = report.rungs(run_with_bar(specs, jobs))
    if html is not None:
        write_page(html, results)
    if as_json:
        print_json(report.as_json(results))
    else:
        print_comparison(screen(), results)
    return 0


def screen() -> Console:
    """Standard output; a pipe or file is as wide as a table wants."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=_WIDE)


def _loads(asked: WorkloadFlags, qps: float | None, ladder: str) -> Sequence[float | None]:
    if ladder:
        if qps is not None:
            raise ConfigError("one load or several, not both", field="--ladder", hint="leave --qps out")
        return list(dict.fromkeys(numbers(ladder, "--ladder")))
    if qps is None and asked.trace is None and asked.workload == "brief":
        return BRIEF_LADDER
    return (qps,)


def _specs(
    policies: Sequence[str], asked: WorkloadFlags, fleet: FleetFlags, loads: Sequence[float | None], seeds: int
) -> list[RunSpec]:
    if seeds < 1:
        raise ConfigError("must be at least 1", field="--seeds")
    scale = LADDER_SCALE if len(loads) > 1 else 1.0
    return [
        RunSpec(policy=policy, workload=asked.source(load, seed, scale), options=fleet.options(policy, asked, seed))
        for load in loads
        for seed in range(asked.seed, asked.seed + seeds)
        for policy in dict.fromkeys(policies)
    ]


def run_with_bar(specs: Sequence[RunSpec], jobs: int) -> list[Comparison]:
    """Run everything, with a progress bar on standard error when that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("simulating", total=len(specs))

        def tell(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, description=label)

        return run_all(specs, jobs, tell)


def _print_policies() -> None:
    console = Console(soft_wrap=True)
    for name, source in POLICIES.items():
        where = "" if name == source else f"  [dim]{source}[/]"
        console.print(f"{name:<14}{DESCRIPTIONS[name]}{where}", highlight=False)
