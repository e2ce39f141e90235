"""The demo's numbers: from results to the table and the JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from pointsman.demo.load import Result


class Quantiles(msgspec.Struct, frozen=True):
    """Milliseconds; None when nothing was measured."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        return cls(quantile(values, 0.50), quantile(values, 0.95), quantile(values, 0.99))


class SchedulingQuantiles(msgspec.Struct, frozen=True):
    """Milliseconds from the last request byte to the decision; None without a picker."""

    p50: float | None = None
    p99: float | None = None


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One policy's row. Latencies and rates are in engine time; ``success`` and ``hit_rate`` are shares."""

    ttft_ms: Quantiles
    output_tokens_per_s: float
    success: float
    hit_rate: float
    scheduling_ms: SchedulingQuantiles
    requests: int
    wall_s: float = 0.0
    errors: dict[str, int] = {}
    failed_open: int = 0
    """Requests that went on by round-robin because the picker was away or late."""


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that at least a share ``q`` of the values does not exceed; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def summarize(
    results: Sequence[Result],
    *,
    time_scale: float,
    hit_rate: float,
    scheduling_ms: Sequence[float],
    decided: int | None,
    wall_s: float,
) -> PolicyResult:
    """Bring one run's results together."""
    good = [result for result in results if result.ok]
    span = max((result.ended_at for result in results), default=0.0) * time_scale
    errors: dict[str, int] = {}
    for result in results:
        if not result.ok:
            cause = result.error or f"status {result.status}"
            errors[cause] = errors.get(cause, 0) + 1
    return PolicyResult(
        ttft_ms=Quantiles.of([r.ttft * 1000 * time_scale for r in good if r.ttft is not None]),
        output_tokens_per_s=sum(r.output_tokens for r in good) / span if span else 0.0,
        success=len(good) / len(results) if results else 0.0,
        hit_rate=hit_rate,
        scheduling_ms=SchedulingQuantiles(quantile(scheduling_ms, 0.5), quantile(scheduling_ms, 0.99)),
        requests=len(results),
        wall_s=wall_s,
        errors=errors,
        failed_open=max(0, len(results) - decided) if decided is not None else 0,
    )


def print_table(console: Console, policies: dict[str, PolicyResult]) -> None:
    """The policies side by side, with the ratio of each to the first."""
    names = list(policies)
    first = policies[names[0]]
    table = Table(header_style="bold", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for label, pick, unit in _ROWS:
        base = pick(first)
        cells = [_cell(pick(policies[name]), base if name != names[0] else None, unit) for name in names]
        table.add_row(label, *cells)
    console.print(table)


_Pick = Callable[[PolicyResult], float | None]
_ROWS: tuple[tuple[str, _Pick, str], ...] = (
    ("TTFT P50", lambda r: r.ttft_ms.p50, "ms"),
    ("TTFT P95", lambda r: r.ttft_ms.p95, "ms"),
    ("TTFT P99", lambda r: r.ttft_ms.p99, "ms"),
    ("throughput", lambda r: r.output_tokens_per_s, "tok/s"),
    ("success", lambda r: r.success, "%"),
    ("cache hit rate", lambda r: r.hit_rate, "%"),
    ("scheduling P50", lambda r: r.scheduling_ms.p50, "ms real"),
    ("scheduling P99", lambda r: r.scheduling_ms.p99, "ms real"),
)


def _cell(value: float | None, base: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "%":
        return f"{value:.1%}"
    text = f"{value:,.2f} ms" if unit == "ms real" else f"{value:,.0f} {unit}"
    if not base or unit == "ms real":
        return text
    change = value / base - 1
    return f"{text} ({change:+.0%})" if abs(change) < 10 else f"{text} (x{value / base:.0f})"
