"""Runs side by side: the same wherever they run, refused before anything runs, gone when told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.lab.lab_builders import shared_prefixes

from pointsman.errors import ConfigError
from pointsman.lab.compare import Comparison, compare, judged
from pointsman.lab.compare_specs import GivenWorkload, NamedWorkload, RunSpec, TraceWorkload, WorkloadSource
from pointsman.lab.options import FleetOptions
from pointsman.lab.policies import policy_source
from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.lab.runner import Run

FLEET = FleetOptions(pods=3)


def given(qps: float = 8.0) -> GivenWorkload:
    requests: tuple[LabRequest, ...] = tuple(shared_prefixes(qps=qps).requests())
    return GivenWorkload(name="shared", requests=requests, qps=qps)


def specs(*policies: str, qps: float = 8.0) -> list[RunSpec]:
    return [RunSpec(policy=policy, workload=given(qps), options=FLEET) for policy in policies]


def encoded(results: Sequence[Comparison]) -> list[bytes]:
    for one in results:
        one.result.wall_s = 0.0
    return [msgspec.json.encode((one.result, one.best, one.indices)) for one in results]


@pytest.mark.timeout(120)
def test_processes_change_nothing() -> None:
    wanted = specs("round-robin", "default", "llm-d")
    told: list[tuple[int, int, str]] = []
    apart = compare(wanted, 2, lambda *what: told.append(what))
    assert [one.spec for one in apart] == wanted
    assert encoded(apart) == encoded(compare(wanted, 1))
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert {label for _, _, label in told} == {spec.label for spec in wanted}


@pytest.mark.parametrize("policy", ["round-robin", "brief", "llm-d", "default", "precise"])
def test_events_that_nobody_hears_change_nothing(policy: str) -> None:
    run = judged(specs(policy)[0])
    with_events = Run(policy_source(policy), FixedWorkload("shared", given().requests), FLEET).run()
    assert [(row.id, row.pod, row.first_token) for row in run.result.rows] == [
        (row.id, row.pod, row.first_token) for row in with_events.rows
    ]


def test_figures_of_a_run() -> None:
    (run,) = compare(specs("default", qps=2.0), 1)
    figures = run.figures()
    share = run.share_of_achievable
    assert share is not None
    assert 0.9 < share <= 1.0
    assert run.ttft_over_bound is not None
    assert run.ttft_over_bound >= 1.0
    assert figures["share_of_achievable"] == share
    assert figures["success"] == 1.0
    assert run.result.policy == "default"
    assert len(run.result.busy_s) == 3
    assert json.loads(msgspec.json.encode(figures))["indices"]["busy_imbalance"] >= 1.0


def test_records_are_flat() -> None:
    records = judged(specs("default")[0]).result.records()
    assert {"id", "policy", "pod", "ttft_ms", "tpot_ms", "cached_tokens"} <= records[0].keys()
    assert all(isinstance(value, str | int | float | bool | None) for record in records for value in record.values())


def test_a_policy_that_cannot_be_built_is_refused_before_anything_runs(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("scorers: [{type: load-awar}]\n")
    told: list[str] = []
    for policy in (str(bad), "round-robn"):
        with pytest.raises(ConfigError, match=r"round-robin|load-aware"):
            compare(specs("default", policy), 1, lambda _done, _total, label: told.append(label))
    assert not told


def test_a_workload_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    told: list[str] = []
    sources: list[WorkloadSource] = [
        NamedWorkload(name="breif"),
        TraceWorkload(path=tmp_path / "none.jsonl", format="mooncake"),
    ]
    for source in sources:
        wanted = [*specs("default"), RunSpec(policy="default", workload=source, options=FLEET)]
        with pytest.raises(ConfigError, match=r"breif|none\.jsonl"):
            compare(wanted, 1, lambda _done, _total, label: told.append(label))
    assert not told


@pytest.mark.timeout(120)
def test_an_error_in_a_process_is_the_error_here(tmp_path: Path) -> None:
    trace = tmp_path / "broken.jsonl"
    good = {"timestamp": 0, "input_length": 100, "output_length": 3, "hash_ids": [1]}
    trace.write_text("\n".join([json.dumps(good)] * 50 + ["{nonsense"]) + "\n")
    source = TraceWorkload(path=trace, format="mooncake")
    wanted = [RunSpec(policy=policy, workload=source, options=FLEET) for policy in ("default", "round-robin")]
    for jobs in (1, 2):
        with pytest.raises(ConfigError, match=r"broken\.jsonl:51"):
            compare(wanted, jobs)


STOPPED = """
    import sys
    from pointsman.lab.compare import compare
    from pointsman.lab.compare_specs import NamedWorkload, RunSpec

    if __name__ == "__main__":
        long = NamedWorkload(name="brief", qps=4.0, scale=100.0)
        quick = NamedWorkload(name="brief", qps=5.0, scale=0.01)
        specs = [RunSpec(policy="default", workload=one) for one in (quick, long, long)]
        try:
            compare(specs, 2, lambda done, total, label: print("one is done", flush=True))
        except KeyboardInterrupt:
            print("stopped", flush=True)
            sys.exit(130)
"""


def children(pid: int) -> set[int]:
    return {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "stopped.py"
    script.write_text(textwrap.dedent(STOPPED))
    running = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "one is done\n"
        workers = children(running.pid)
        assert len(workers) >= 2
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130, err
    assert out == "stopped\n"
    assert "Traceback" not in err
    gone_by = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < gone_by
        time.sleep(0.05)
