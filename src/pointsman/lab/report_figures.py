"""The figures that tables show of a run, for terminal and page alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec

from pointsman.lab.compare import Comparison
from pointsman.lab.results import distribution

Pick = Callable[[Comparison], float | None]
NONE = "–"


class Column(msgspec.Struct, frozen=True):
    """One figure: heading, where it comes from, how it is written."""

    name: str
    pick: Pick
    form: str


def _ttft(name: str) -> Pick:
    return lambda run: distribution([row.ttft_ms for row in run.result.measured() if row.ok])[name]


def _tpot(run: Comparison) -> float | None:
    values = [value for row in run.result.measured() if row.ok and (value := row.tpot_ms) is not None]
    return distribution(values)["mean"]


def _figure(name: str) -> Pick:
    def pick(run: Comparison) -> float | None:
        value = run.result.summary()[name]
        return value if isinstance(value, int | float) else None

    return pick


COLUMNS = (
    Column("TTFT mean", _ttft("mean"), ",.0f"),
    Column("P50", _ttft("p50"), ",.0f"),
    Column("P95", _ttft("p95"), ",.0f"),
    Column("P99", _ttft("p99"), ",.0f"),
    Column("÷ bound", lambda run: run.ttft_over_bound, ",.1f"),
    Column("TPOT", _tpot, ",.1f"),
    Column("hits", _figure("hit_rate"), ".1%"),
    Column("of ideal", lambda run: run.share_of_achievable, ".0%"),
    Column("tok/s", _figure("output_tokens_per_s"), ",.0f"),
    Column("success", _figure("success"), ".1%"),
    Column("hot spot", lambda run: run.indices.hot_spot, ".2f"),
    Column("herding", lambda run: run.indices.herding, ".2f"),
)


def at_best(run: Comparison) -> list[str]:
    """What would have been possible, in the columns' order."""
    best = run.best
    cells = {column.name: "" for column in COLUMNS}
    if best.ttft is not None:
        cells["TTFT mean"], cells["÷ bound"] = f"≥ {best.ttft.mean_ms:,.0f}", "1.0"
        for label in ("P50", "P95", "P99"):
            cells[label] = f"≥ {best.ttft.alone_ms[label.lower()] or 0:,.0f}"
    cells["hits"], cells["of ideal"] = f"{best.rate(best.lru_tokens):.1%}", "100%"
    return list(cells.values())


def cell(values: Sequence[float | None], form: str) -> str:
    """The mean of what there is, and the standard deviation over several."""
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    mean = format(statistics.fmean(known), form)
    return f"{mean} ±{format(statistics.stdev(known), form)}" if len(known) > 1 else mean


def subject(run: Comparison, *, load: bool = True) -> str:
    """What was asked of which fleet, in words; without the load for a ladder."""
    source, options = run.spec.workload, run.spec.options
    asked = source.label if source.qps is None or not load else f"{source.label} at {source.qps:g} QPS"
    count = f"{len(run.result.measured()):,} requests, " if load else ""
    profile = options.profile
    fleet = f"{options.pods} × {profile.name} ({profile.kv_tokens:,} tokens of KV cache each)"
    return f"{asked}: {count}{fleet}"
