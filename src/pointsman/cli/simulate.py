"""``pointsman simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from pointsman.cli.common import print_json
from pointsman.cli.compare import run_with_bar, screen
from pointsman.cli.lab_flags import FleetFlags, WorkloadFlags
from pointsman.lab.compare import Comparison
from pointsman.lab.compare_specs import RunSpec
from pointsman.lab.html import check_writable, write_page
from pointsman.lab.report import rungs
from pointsman.lab.report_tables import print_run
from pointsman.lab.report_time import pod_shares, time_spent

AsJson = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.", negative=())]
DEFAULT_QPS = 10.0
"""Just below what eight pods of the default profile can do on the workload of the brief."""


def simulate(
    *,
    policy: str = "default",
    asked: WorkloadFlags = WorkloadFlags(),  # noqa: B008 - frozen
    fleet: FleetFlags = FleetFlags(),  # noqa: B008 - frozen
    qps: float | None = None,
    html: Path | None = None,
    requests: Path | None = None,
    as_json: AsJson = False,
) -> int:
    """Run one policy on one workload in simulated time, and say what came of it: latencies, hits, pods, time spent.

    The picker is the one that serves live traffic: the same file can be given to `pointsman up --config`.

    ```console
    pointsman simulate
    pointsman simulate --policy llm-d --workload chat --pods 4
    pointsman simulate --policy my-policy.yaml --trace conversation.jsonl --speed 2 --slice 0:600
    pointsman simulate --workload brief --qps 20 --requests rows.jsonl --json
    ```

    Parameters
    ----------
    policy
        A policy (see `pointsman compare --list-policies`) or a YAML file.
    qps
        Load of a made-up workload, requests per second; by default the workload's own, for brief 10.
    html
        Also write a page with charts that opens without a network.
    requests
        Also write one JSON line per request to this file.
    """
    for path in filter(None, (html, requests)):
        check_writable(path)
    if qps is None and asked.trace is None and asked.workload == "brief":
        qps = DEFAULT_QPS
    source, options = asked.source(qps, asked.seed), fleet.options(policy, asked, asked.seed)
    spec = RunSpec(policy=policy, workload=source, options=options)
    (run,) = run_with_bar([spec], 1)
    if html is not None:
        write_page(html, rungs([run]))
    if requests is not None:
        requests.write_bytes(msgspec.json.Encoder().encode_lines(run.result.records()))
    if as_json:
        print_json(_json(run))
    else:
        print_run(screen(), run)
    return 0


def _json(run: Comparison) -> dict[str, object]:
    return {
        "policy": run.spec.policy,
        "workload": run.spec.workload.label,
        "qps": run.spec.workload.qps,
        **run.figures(),
        "achievable": run.best.summary(),
        "time_spent_ms": msgspec.to_builtins(time_spent(run.result, run.spec.options)),
        "pods": msgspec.to_builtins(pod_shares(run.result)),
    }
