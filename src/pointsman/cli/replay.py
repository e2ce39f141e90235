"""``pointsman replay``."""

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
from pointsman.cli.lab_flags import WorkloadFlags
from pointsman.cli.replay_flags import AsJson, SimulatedFlags, described, milliseconds, percent, progress_bar
from pointsman.errors import ConfigError
from pointsman.lab.compare_specs import TraceWorkload
from pointsman.lab.options import FleetOptions
from pointsman.lab.records_file import RecordsInfo
from pointsman.lab.replay import Replay
from pointsman.lab.replay import replay as run_all

Policies = Annotated[
    tuple[str, ...],
    Parameter(
        name="--policy",
        help="What to run on the same requests: a policy (see `pointsman compare --list-policies`) or a YAML file. "
        "Repeat for each.",
        negative=(),
    ),
]


def replay(
    records: Path,
    /,
    *,
    policy: Policies = (),
    fleet: SimulatedFlags = SimulatedFlags(),  # noqa: B008 - frozen
    speed: float = 1.0,
    slice_: Annotated[str, Parameter(name="--slice")] = "",
    limit: int | None = None,
    seed: int = 1,
    as_json: AsJson = False,
) -> int:
    """What would another policy have done with my traffic? Replays records of a live picker in simulated time.

    Record with `pointsman epp --records FOLDER` (or `up`). The table begins with what was measured and with the
    recorded policy as simulated: how far these two agree is how far the rest can be trusted.

    ```console
    pointsman replay /var/lib/pointsman/records --policy default --policy llm-d
    pointsman replay records.jsonl --policy a.yaml --policy b.yaml --slice 0:3600 --json
    pointsman replay records.jsonl --policy default --pods 6 --speed 1.5
    ```

    Parameters
    ----------
    records
        Folder, or the file that grows; the full files beside it are read first.
    speed
        Play the records so many times as fast.
    slice_
        Only FROM:TO of the records, in seconds, such as 600:1200.
    limit
        Only the first so many requests.
    seed
        Of made-up token ids, lengths not recorded, and random picks.
    """
    asked = WorkloadFlags(speed=speed, slice=slice_, limit=limit, seed=seed)
    source, options, info = described("default", asked, records, fleet, None)
    assert info is not None
    if not isinstance(source, TraceWorkload):
        raise ConfigError("these are no records", source=str(records))
    with progress_bar() as bar:
        found = run_all(info, source, options, policy, jobs=fleet.jobs, progress=bar.tell)
    if as_json:
        print_json(_as_data(info, options, found))
    else:
        _show(info, options, found)
    return 0


def _as_data(info: RecordsInfo, options: FleetOptions, found: Replay) -> dict[str, object]:
    return {
        "records": str(info.path),
        "requests": info.requests,
        "duration_s": round(info.duration, 3),
        "policy": info.policy,
        "pods_recorded": len(info.pods),
        "pods": options.pods,
        "kv_tokens": options.profile.kv_tokens,
        "rows": msgspec.to_builtins(found.rows),
        "notes": found.notes,
    }


def _show(info: RecordsInfo, options: FleetOptions, found: Replay) -> None:
    console = Console(highlight=False)
    table = Table(
        title=f"{info.requests:,} requests in {info.duration:,.0f} s, recorded under {escape(info.policy or '?')}",
        caption=f"simulated: {options.pods} pods with {options.profile.kv_tokens:,} KV tokens each, "
        f""
        f"{options.profile.name}; time to first token (mean to P99, of so many requests) in ms",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("policy", no_wrap=True)
    for name in ("mean", "P50", "P90", "P95", "P99", "of", "hits", "answered"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        times = [milliseconds(row.ttft_ms[name]) for name in ("mean", "p50", "p90", "p95", "p99")]
        table.add_row(escape(row.name), *times, f"{row.seen:,}", percent(row.hit_rate), f"{row.success:.1%}")
    console.print(table)
    for note in found.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
