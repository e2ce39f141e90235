"""Grouping, JSON and tables."""

from __future__ import annotations

import io
import statistics
from functools import cache

import msgspec
import pytest
from rich.console import Console
from tests.lab.lab_builders import shared_prefixes

from pointsman.lab.compare import Comparison, judged
from pointsman.lab.compare_specs import GivenWorkload, RunSpec
from pointsman.lab.options import FleetOptions
from pointsman.lab.report import as_json, over_seeds, rungs
from pointsman.lab.report_tables import print_comparison, print_run
from pointsman.lab.report_time import pod_shares, time_spent

POLICIES = ("round-robin", "default")


@cache
def runs(*, loads: tuple[float, ...] = (8.0,), seeds: int = 1) -> list[Comparison]:
    found = []
    for qps in loads:
        source = GivenWorkload(name="shared", requests=tuple(shared_prefixes(qps=qps).requests()), qps=qps)
        for seed in range(1, seeds + 1):
            fleet = FleetOptions(pods=3, seed=seed, sample=1.0)
            found += [judged(RunSpec(policy=policy, workload=source, options=fleet)) for policy in POLICIES]
    return found


def printed(width: int, results: list[Comparison]) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    print_comparison(console, rungs(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rungs_keep_the_order() -> None:
    found = rungs(runs(loads=(8.0, 2.0)))
    assert [rung.title for rung in found] == ["shared at 8 QPS", "shared at 2 QPS"]
    assert list(found[0].policies) == list(POLICIES)


def test_json_of_one_load_has_the_policies_at_the_top() -> None:
    data = msgspec.json.decode(msgspec.json.encode(as_json(rungs(runs()))))
    policy = data["policies"]["default"]
    assert policy["ttft_ms"].keys() == {"mean", "p50", "p90", "p95", "p99"}
    assert {"tpot_ms", "hit_rate", "share_of_achievable", "success", "output_tokens_per_s", "wall_s"} <= policy.keys()
    assert data["rungs"][0]["policies"] == data["policies"]
    assert data["achievable"]["ttft_bound_ms"]["mean_ms"] > 0
    assert "spread" not in policy


def test_json_of_a_ladder_and_of_seeds() -> None:
    assert as_json(rungs(runs(loads=(8.0, 2.0)))).keys() == {"rungs"}
    data = msgspec.json.decode(msgspec.json.encode(as_json(rungs(runs(seeds=2)))))
    assert data["policies"]["default"]["seeds"] == 2
    assert data["policies"]["default"]["spread"]["hit_rate"] >= 0


def test_figures_over_seeds() -> None:
    figures: list[dict[str, object]] = [{"a": 1.0, "b": {"c": None}}, {"a": 3.0, "b": {"c": 5.0}}]
    assert over_seeds(figures, statistics.fmean) == {"a": 2.0, "b": {"c": 5.0}}
    assert over_seeds(figures, statistics.stdev) == {"a": pytest.approx(2**0.5), "b": {"c": 0.0}}
    assert over_seeds([{"a": None}, {"a": None}], statistics.fmean) == {"a": None}


def test_a_table_says_what_was_best() -> None:
    wide = printed(200, runs(loads=(8.0, 2.0)))
    assert wide.count("at best") == 3
    assert wide.count("round-robin") == 2
    assert "herding" in wide


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_table_leaves_columns_out_and_cuts_nothing(width: int) -> None:
    narrow = printed(width, runs())
    assert "…" not in narrow
    assert "herding" not in narrow
    assert "P95" in narrow
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= width


def test_seeds_are_told_with_their_spread() -> None:
    assert "±" in printed(300, runs(seeds=2))


def test_one_run_in_detail() -> None:
    console = Console(file=io.StringIO(), width=100, no_color=True)
    print_run(console, runs()[1])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for words in ("TTFT", "own prefill", "hot spot", "of what an ideal shared LRU gets", "lower bound", "busy"):
        assert words in text


def test_the_time_spent_is_the_time_taken() -> None:
    run = runs()[1]
    spent = time_spent(run.result, run.spec.options)
    assert spent is not None
    rows = run.result.rows
    mean = sum(row.end - row.arrival for row in rows) / len(rows) * 1e3
    assert sum(msgspec.structs.astuple(spent)) == pytest.approx(mean)
    assert min(msgspec.structs.astuple(spent)) >= 0


def test_pods_share_the_requests() -> None:
    run = runs()[0]
    shares = pod_shares(run.result)
    assert [share.requests for share in shares] == [10, 10, 10]
    assert all(0 < share.busy <= 1 for share in shares)
