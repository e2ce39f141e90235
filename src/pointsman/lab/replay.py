"""Replays records of a live picker under several policies, beside what really happened.

The first two rows tell how far the rest can be trusted: what was measured, and what the simulation makes of the very
same policy on the very same requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from pointsman.errors import ConfigError
from pointsman.lab.compare import compare
from pointsman.lab.compare_specs import RunSpec, TraceWorkload
from pointsman.lab.options import FleetOptions
from pointsman.lab.policies import with_documented_scraping
from pointsman.lab.records_file import RecordsInfo
from pointsman.lab.results import distribution
from pointsman.lab.tune_space import load_policy

MEASURED = "measured"
SIMULATED = "as recorded, simulated"


class ReplayRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. Times in milliseconds; None: not known.

    Attributes:
        name: of the policy, or :data:`MEASURED` or :data:`SIMULATED`.
        requests: counted.
        ttft_ms: mean and percentiles of the time to first token.
        seen: requests behind them.
        hit_rate: share of the prompt tokens found in a cache.
        success: share answered with 200 to the end.
        output_tokens_per_s: of the whole fleet.
        share_of_achievable: hits as a share of an ideal cache's.
    """

    name: str
    requests: int
    ttft_ms: dict[str, float | None]
    seen: int
    hit_rate: float | None
    success: float
    output_tokens_per_s: float | None = None
    share_of_achievable: float | None = None


class Replay(msgspec.Struct, frozen=True):
    """Rows, and what to know when reading them."""

    rows: list[ReplayRow]
    notes: list[str]


def measured_row(info: RecordsInfo) -> ReplayRow:
    """What really happened, as far as the picker looked."""
    seen = info.observed
    return ReplayRow(
        name=MEASURED,
        requests=info.requests,
        ttft_ms=distribution(seen.ttft_ms),
        seen=len(seen.ttft_ms),
        hit_rate=seen.cached_tokens / seen.prompt_tokens if seen.prompt_tokens else None,
        success=seen.answered / info.requests,
    )


def replay(
    info: RecordsInfo,
    workload: TraceWorkload,
    fleet: FleetOptions,
    policies: Sequence[str],
    *,
    jobs: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Replay:
    """Run the recorded policy and others.

    Args:
        info: of the records.
        workload: the same records.
        fleet: see :func:`pointsman.lab.records.recorded_fleet`.
        policies: names or files.
        jobs: processes; 0: as many as there are cores.
        progress: told of runs that ended.

    Raises:
        ConfigError: if a policy cannot be used, or the records cannot be read.
    """
    notes = _notes(info, workload)
    with TemporaryDirectory(prefix="pointsman-replay-") as folder:
        recorded = _recorded_policy(info, Path(folder), notes)
        named = [(SIMULATED, str(recorded))] if recorded is not None else []
        named += [(policy, policy) for policy in policies]
        specs = [
            RunSpec(policy=policy, workload=workload, options=with_documented_scraping(policy, fleet))
            for _, policy in named
        ]
        results = compare(specs, jobs, progress) if specs else []
    rows = [measured_row(info)]
    for (name, _), found in zip(named, results, strict=True):
        done = found.result.measured()
        good = [row for row in done if row.ok]
        prompt = sum(row.prompt_tokens for row in good)
        figures = found.result.summary()
        rows.append(
            ReplayRow(
                name=name,
                requests=len(done),
                ttft_ms=distribution([row.ttft_ms for row in good]),
                seen=len(good),
                hit_rate=sum(row.cached_tokens for row in good) / prompt if prompt else None,
                success=len(good) / len(done) if done else 0.0,
                output_tokens_per_s=float(str(figures["output_tokens_per_s"])),
                share_of_achievable=found.share_of_achievable,
            )
        )
    return Replay(rows, notes)


def _recorded_policy(info: RecordsInfo, folder: Path, notes: list[str]) -> Path | None:
    """The recorded configuration as a file; None, with a note, when it cannot be built here."""
    path = folder / "recorded.yaml"
    config = {name: value for name, value in info.configs.get(info.policy, {}).items() if name != "shadow"}
    if not config:
        notes.append("The records do not say by which policy the requests were decided.")
        return None
    path.write_bytes(msgspec.json.encode(config))
    try:
        load_policy(str(path))
    except ConfigError as error:
        notes.append(f"The recorded policy ({info.policy}) cannot be built here: {str(error).splitlines()[0]}")
        return None
    return path


def _notes(info: RecordsInfo, workload: TraceWorkload) -> list[str]:
    seen, notes = info.observed, list[str]()
    if len(info.policies) > 1:
        share = info.policies[info.policy] / info.requests
        notes.append(f"{len(info.policies)} policies were in force; the one simulated, {info.policy}, for {share:.0%}.")
    if info.sample < 1:
        notes.append(f"A sample of {info.sample:.0%} was recorded; the fleet simulated is as much smaller.")
    known = len(seen.outputs) / max(1, seen.answered)
    if known < 0.5:
        notes.append(
            f"How long answers were is known of {known:.0%}, the rest is drawn from them: "
            "record with observeShare: 1 in the configuration to know of all."
        )
    if info.exact < info.requests:
        notes.append(
            f"The tokens of {1 - info.exact / info.requests:.0%} of the prompts are estimates (four bytes each)."
        )
    if workload.speed != 1 or workload.scale_users != 1 or workload.slice is not None or workload.limit is not None:
        notes.append("Measured is the whole recording as it was; simulated is what the flags make of it.")
    return notes
