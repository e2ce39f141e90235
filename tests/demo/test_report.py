"""The demo's numbers: quantiles, sums and the table."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pointsman.demo.load import Result
from pointsman.demo.report import PolicyResult, Quantiles, SchedulingQuantiles, print_table, quantile, summarize

floats = st.floats(-1e9, 1e9)


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.01, 7.0),
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 0.5, 2.0),
        ([1.0, 1.0, 1.0, 9.0], 0.75, 1.0),
        ([1.0, 1.0, 1.0, 9.0], 0.76, 9.0),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([float(i) for i in range(1, 101)], 0.5, 50.0),
        ([float(i) for i in range(1, 101)], 0.95, 95.0),
        ([float(i) for i in range(1, 101)], 0.99, 99.0),
    ],
)
def test_a_quantile_is_one_of_the_values(values: list[float], q: float, expected: float | None) -> None:
    assert quantile(values, q) == expected


@given(st.lists(floats, min_size=1, max_size=60), st.sampled_from(["0.5", "0.95", "0.99"]))
def test_a_quantile_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], q: str) -> None:
    found = quantile(values, float(q))
    assert found in values
    need = Fraction(q) * len(values)
    assert sum(value <= found for value in values) >= need
    assert all(sum(other <= value for other in values) < need for value in values if value < found)


@pytest.mark.parametrize("q", ["0.5", "0.95", "0.99"])
def test_rounding_never_moves_a_quantile(q: str) -> None:
    for count in range(1, 5000):
        assert math.ceil(float(q) * count) == math.ceil(Fraction(q) * count)


def result(**fields: object) -> Result:
    return msgspec.structs.replace(Result(status=200, ttft=0.1, total=1.0, output_tokens=10, ended_at=1.0), **fields)


def summary(results: list[Result], *, time_scale: float = 1.0, decided: int | None = None) -> PolicyResult:
    return summarize(
        results, time_scale=time_scale, hit_rate=0.5, scheduling_ms=[3.0, 1.0, 2.0], decided=decided, wall_s=9.0
    )


def test_a_run_is_told_in_engine_time() -> None:
    results = [result(ttft=0.1 * i, ended_at=float(i)) for i in range(1, 6)]
    found = summary(results, time_scale=4)
    assert found.ttft_ms.p50 == pytest.approx(1200)
    assert found.ttft_ms.p99 == pytest.approx(2000)
    assert found.output_tokens_per_s == pytest.approx(50 / (5.0 * 4))
    assert found.scheduling_ms == SchedulingQuantiles(2.0, 3.0)
    assert (found.success, found.requests, found.hit_rate, found.wall_s, found.errors) == (1.0, 5, 0.5, 9.0, {})


def test_failures_count_by_cause_and_not_in_the_latencies() -> None:
    results = [
        result(),
        result(status=503, ttft=None, output_tokens=0, ended_at=2.0),
        result(status=503, ttft=None, output_tokens=0),
        result(error="timeout", ttft=99.0, output_tokens=99),
    ]
    found = summary(results)
    assert (found.success, found.requests) == (0.25, 4)
    assert found.errors == {"status 503": 2, "timeout": 1}
    assert found.ttft_ms == Quantiles(100.0, 100.0, 100.0)
    assert found.output_tokens_per_s == pytest.approx(10 / 2.0)


def test_nothing_sent_is_nothing_measured() -> None:
    found = summary([])
    assert (found.ttft_ms, found.output_tokens_per_s, found.success, found.requests) == (Quantiles(), 0.0, 0.0, 0)


@pytest.mark.parametrize(("decided", "failed_open"), [(None, 0), (3, 0), (1, 2), (0, 3), (9, 0)])
def test_requests_that_the_picker_did_not_decide_went_on_without_it(decided: int | None, failed_open: int) -> None:
    assert summary([result()] * 3, decided=decided).failed_open == failed_open


def test_a_result_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(summary([result()])), type=PolicyResult) == summary([result()])


def policy(p50: float | None = 1000.0, rate: float = 500.0, *, picker: bool = True) -> PolicyResult:
    return PolicyResult(
        ttft_ms=Quantiles(p50, p50, p50),
        output_tokens_per_s=rate,
        success=1.0,
        hit_rate=0.123,
        scheduling_ms=SchedulingQuantiles(0.5, 1.25) if picker else SchedulingQuantiles(),
        requests=10,
    )


def table(policies: dict[str, PolicyResult]) -> dict[str, list[str]]:
    """The printed table: label → cells."""
    out = io.StringIO()
    print_table(Console(file=out, width=200, color_system=None), policies)
    rows = [
        [cell.strip() for cell in line.strip("\u2502\u2503 ").split("\u2502")] for line in out.getvalue().splitlines()
    ]
    return {row[0]: row[1:] for row in rows if len(row) == len(policies) + 1}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1000.0, "1,000 ms (+0%)"),
        (100.0, "100 ms (-90%)"),
        (1500.0, "1,500 ms (+50%)"),
        (20_000.0, "20,000 ms (x20)"),
        (None, "\u2013"),
    ],
)
def test_the_table_compares_with_the_first_policy(value: float | None, shown: str) -> None:
    rows = table({"round-robin": policy(picker=False), "default": policy(value)})
    assert rows["TTFT P50"] == ["1,000 ms", shown]
    assert rows["throughput"] == ["500 tok/s", "500 tok/s (+0%)"]
    assert rows["success"] == ["100.0%", "100.0%"]
    assert rows["cache hit rate"] == ["12.3%", "12.3%"]
    assert rows["scheduling P99"] == ["\u2013", "1.25 ms"]


@pytest.mark.parametrize(("p50", "rate"), [(None, 0.0), (0.0, 0.0)])
def test_the_table_compares_with_nothing_when_the_first_policy_has_nothing(p50: float | None, rate: float) -> None:
    rows = table({"round-robin": policy(p50, rate), "default": policy()})
    assert rows["TTFT P50"][1] == "1,000 ms"
    assert rows["throughput"][1] == "500 tok/s"


def test_one_policy_is_a_table_too() -> None:
    assert table({"default": policy()})["TTFT P95"] == ["1,000 ms"]
