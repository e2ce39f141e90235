"""What ``replay``, ``tune`` and ``what-if`` share: a fleet that may be like a recorded one, a bar, cells of tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Group, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pointsman.cli.lab_flags import DEFAULT_LORAS, FleetFlags, WorkloadFlags
from pointsman.errors import ConfigError
from pointsman.lab.compare_specs import NamedWorkload, TraceWorkload
from pointsman.lab.options import FleetOptions
from pointsman.lab.records import recorded_fleet
from pointsman.lab.records_file import RecordsInfo, scan
from pointsman.sim.profiles import DEFAULT_PROFILE, PROFILES

AsJson = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.", negative=())]
RecordsFile = Annotated[
    Path | None, Parameter(help="Records of a live picker instead: a folder, or the file that grows.")
]  # fmt: skip
DEFAULT_PODS = 8
BRIEF_QPS = 10.0
"""Load of the brief's workload when none is given: just below what eight pods can do."""
_FLEET = Group("The fleet", sort_key=20)


@Parameter(name="*", group=_FLEET)
@dataclass(frozen=True)
class SimulatedFlags:
    """The simulated fleet."""

    pods: Annotated[
        int | None, Parameter(help=f"Simulated pods; by default as many as were recorded, else {DEFAULT_PODS}.")
    ] = None
    profile: Annotated[
        str, Parameter(help=f"Engine: {', '.join(PROFILES)}, or a file of `pointsman calibrate`.")
    ] = DEFAULT_PROFILE  # fmt: skip
    kv_tokens: Annotated[
        int | None,
        Parameter(help="KV cache of a pod, tokens; by default what the recorded pods told, else the profile's."),
    ] = None
    jobs: Annotated[int, Parameter(help="Processes; 0: as many as there are cores.")] = 0


def described(
    policy: str, asked: WorkloadFlags, records: Path | None, flags: SimulatedFlags, qps: float | None
) -> tuple[NamedWorkload | TraceWorkload, FleetOptions, RecordsInfo | None]:
    """The workload, the fleet, and what is known of the records when it is those.

    Raises:
        ConfigError: if flags do not go together, or something cannot be read.
    """
    info = None
    if records is not None:
        if asked.trace is not None:
            raise ConfigError("give --records or --trace, not both")
        info = scan(records)
        asked = replace(asked, trace=records, format="records")
    elif asked.trace is None and asked.workload == "brief" and qps is None:
        qps = BRIEF_QPS
    source = asked.source(qps, asked.seed)
    pods = DEFAULT_PODS if flags.pods is None else flags.pods
    fleet = FleetFlags(pods=pods, profile=flags.profile, kv_tokens=flags.kv_tokens)
    options = fleet.options(policy, asked, asked.seed)
    return source, options if info is None else _like_recorded(info, options, flags), info


def _like_recorded(info: RecordsInfo, options: FleetOptions, flags: SimulatedFlags) -> FleetOptions:
    like = recorded_fleet(info, options)
    pods = like.pods if flags.pods is None else options.pods
    profile = like.profile if flags.kv_tokens is None else options.profile
    return msgspec.structs.replace(like, pods=pods, profile=profile, max_loras=DEFAULT_LORAS if info.adapters else 0)


class Bar:
    """A progress bar on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("simulating", total=None)

    def tell(self, done: int, total: int, label: str) -> None:
        """Runs that ended, of how many, and the last one's name."""
        self._progress.update(self._task, completed=done, total=total, description=label)


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """Shown only on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield Bar(progress)


def milliseconds(value: float | None) -> str:
    """For a table."""
    return "-" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """For a table, with a digit."""
    return "-" if value is None else f"{100 * value:.1f} %"
