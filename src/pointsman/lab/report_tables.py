"""Comparisons and single runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pointsman.lab.compare import Comparison
from pointsman.lab.report import Rung
from pointsman.lab.report_figures import COLUMNS, NONE, at_best, cell, subject
from pointsman.lab.report_time import pod_shares, time_spent
from pointsman.lab.results import distribution

_LESS_NEEDED = ("herding", "hot spot", "÷ bound", "TPOT", "P99", "success")
"""Columns that a narrow terminal does without, in this order."""


def print_comparison(console: Console, groups: Sequence[Rung]) -> None:
    """One section per load: a line per policy, and what would have been possible."""
    for workload in dict.fromkeys(rung.workload for rung in groups):
        own = [rung for rung in groups if rung.workload == workload]
        console.print(f"[bold]{subject(own[0].first, load=len(own) == 1)}[/]", highlight=False)
        console.print(_table([_section(rung) for rung in own], console.width, ladder=len(own) > 1))
    seeds = max(len(runs) for rung in groups for runs in rung.policies.values())
    console.print(
        "Times in milliseconds of simulated time. [dim]at best[/]: an ideal LRU of the whole fleet's capacity, and a "
        "TTFT that no policy can be under." + (f" Mean ± standard deviation of {seeds} seeds." if seeds > 1 else ""),
        highlight=False,
    )


def _section(rung: Rung) -> list[list[str]]:
    """Lines of one load: its name, the policy's, the figures; the last is what would have been possible."""
    lines = [
        ["", name, *(cell([column.pick(run) for run in runs], column.form) for column in COLUMNS)]
        for name, runs in rung.policies.items()
    ]
    lines.append(["", "at best", *at_best(rung.first)])
    lines[0][0] = f"{rung.qps:g}" if rung.qps is not None else ""
    return lines


def _table(sections: Sequence[Sequence[Sequence[str]]], width: int, *, ladder: bool) -> Table:
    """The sections below one heading, less the columns for which there is no room."""
    names = ["QPS", "policy", *(column.name for column in COLUMNS)]
    lines = [line for section in sections for line in section]
    room = [3 + max(len(name), *(len(line[at]) for line in lines)) for at, name in enumerate(names)]
    shown = list(range(0 if ladder else 1, len(names)))
    for name in _LESS_NEEDED:
        if sum(room[at] for at in shown) > width:
            shown.remove(names.index(name))
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1), show_edge=False)
    for at in shown:
        table.add_column(names[at], justify="left" if names[at] == "policy" else "right", no_wrap=True)
    for section in sections:
        for line in section[:-1]:
            table.add_row(*(line[at] for at in shown))
        table.add_row(*(section[-1][at] for at in shown), style="dim", end_section=True)
    return table


def print_run(console: Console, run: Comparison) -> None:
    """One run in detail."""
    result, best = run.result, run.best
    summary = result.summary()
    console.print(f"[bold]{run.spec.policy}[/] on {subject(run)}", highlight=False)
    _print_distributions(console, run)
    share = run.share_of_achievable
    console.print(
        f"cache hits {summary['hit_rate']:.1%} of prompt tokens"
        + (f", {share:.1%} of what an ideal shared LRU gets" if share is not None else "")
        + f" (LRU {best.rate(best.lru_tokens):.1%}, with foreknowledge {best.rate(best.belady_tokens):.1%}, without"
        f" limit {best.rate(best.unlimited_tokens):.1%})",
        highlight=False,
    )
    if best.ttft is not None and run.ttft_over_bound is not None:
        text = f"mean TTFT is {run.ttft_over_bound:.2f} times its lower bound of {best.ttft.mean_ms:,.0f} ms"
        console.print(text, highlight=False)
    console.print(
        f"{summary['output_tokens_per_s']:,.0f} output tokens/s, success {summary['success']:.1%} of "
        f"{summary['requests']:,} requests, {result.duration:,.0f} s simulated in {result.wall_s:,.1f} s",
        highlight=False,
    )
    _print_time(console, run)
    _print_pods(console, run)
    _print_indices(console, run)
    for title, counts in (("degraded", result.degraded), ("plugin failures", result.failures)):
        for kind, count in counts.most_common(5):
            console.print(f"[yellow]{title}[/]: {count:,} × {kind}", highlight=False)


def _print_distributions(console: Console, run: Comparison) -> None:
    rows = [row for row in run.result.measured() if row.ok]
    table = Table("milliseconds", box=SIMPLE_HEAD, header_style="bold", show_edge=False)
    for name in ("mean", "P50", "P90", "P95", "P99"):
        table.add_column(name, justify="right")
    tpot = [value for row in rows if (value := row.tpot_ms) is not None]
    whole = [(row.end - row.arrival) * 1e3 for row in rows]
    for name, values in (("TTFT", [row.ttft_ms for row in rows]), ("per output token", tpot), ("whole answer", whole)):
        form = ",.1f" if name == "per output token" else ",.0f"
        table.add_row(name, *(cell([value], form) for value in distribution(values).values()))
    console.print(table)


def _print_time(console: Console, run: Comparison) -> None:
    spent = time_spent(run.result, run.spec.options)
    if spent is None:
        return
    parts = {
        "waiting for the first token": spent.waiting,
        "own prefill": spent.prefill,
        "network": spent.network,
        "decoding, as if alone": spent.decode,
        "decoding, slowed by others": spent.sharing,
    }
    total = sum(parts.values())
    table = Table("where the time went", box=SIMPLE_HEAD, header_style="bold", show_edge=False)
    table.add_column("ms per request", justify="right")
    table.add_column("share", justify="right")
    for name, value in parts.items():
        table.add_row(name, f"{value:,.0f}", f"{value / total:.1%}" if total else NONE)
    console.print(table)


def _print_pods(console: Console, run: Comparison) -> None:
    table = Table("pod", box=SIMPLE_HEAD, header_style="bold", show_edge=False)
    for name in ("requests", "hits", "TTFT P95", "busy", "longest queue"):
        table.add_column(name, justify="right")
    for one in pod_shares(run.result):
        cells = (f"{one.requests:,}", f"{one.hit_rate:.1%}", cell([one.ttft_p95_ms], ",.0f"), f"{one.busy:.0%}")
        table.add_row(str(one.pod), *cells, f"{one.most_waiting:,}")
    console.print(table)


def _print_indices(console: Console, run: Comparison) -> None:
    one = run.indices
    parts = [
        f"hot spot {cell([one.hot_spot], '.2f')} (1 is even)",
        f"busy imbalance {cell([one.busy_imbalance], '.2f')} (1 is even)",
        f"herding {cell([one.herding], '.2f')} (0 is chance)",
        f"TTFT regret {cell([one.ttft_regret_ms], ',.0f')} ms",
        f"hit regret {cell([one.hit_regret], '.1%')}",
    ]
    console.print(" · ".join(parts), highlight=False)
