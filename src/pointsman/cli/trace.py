"""``pointsman trace stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from pointsman.cli.common import print_json
from pointsman.errors import ConfigError
from pointsman.lab.reuse import CACHES, ReuseReport
from pointsman.lab.trace_stats import TraceStats, trace_stats

trace_app = App(name="trace", help="Look into recorded workloads.")

Formats = Annotated[
    str,
    Parameter(
        name="--format", help="mooncake, azure, agentic, burstgpt, qwen, aiperf, otel, records; auto to find out."
    ),
]
Caches = Annotated[
    tuple[int, ...],
    Parameter(name="--cache-tokens", help="Cache size in tokens, of the whole fleet. Repeat for each.", negative=()),
]
Switch = Annotated[bool, Parameter(negative=())]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())]


@trace_app.command
def stats(
    file: Path,
    /,
    *,
    format: Formats = "auto",  # noqa: A002 - the flag's name
    cache_tokens: Caches = (),
    block_size: int | None = None,
    limit: int | None = None,
    sort: Switch = False,
    as_json: AsJson = False,
) -> int:
    """Print what a trace is like: requests, rates, lengths, sessions, and how much of the prompts comes again.

    Reuse is what the best of routers could get of it: the share of prompt tokens found in one ideal LRU cache that the
    whole fleet shares, for several sizes. The file is read line by line, plain or gzip.

    ```console
    pointsman trace stats conversation.jsonl
    pointsman trace stats sessions.jsonl.gz --cache-tokens 2470000 --cache-tokens 7200000
    pointsman trace stats AzureLLMInferenceTrace_conv.csv --json
    ```

    Parameters
    ----------
    file
        The trace.
    block_size
        Tokens in a block of Mooncake's format and its kin, when it is not 512 (Qwen: 16).
    limit
        Look at so many requests only.
    sort
        Read all into memory and sort it: for traces more than a minute out of order.
    """
    for field, values in (("--cache-tokens", cache_tokens), ("--block-size", (block_size,)), ("--limit", (limit,))):
        if any(value is not None and value < 1 for value in values):
            raise ConfigError("must be 1 or more", field=field)
    found = trace_stats(file, format, caches=cache_tokens or CACHES, block_size=block_size, limit=limit, sort=sort)
    if as_json:
        print_json(found)
    else:
        _show(found)
    return 0


def _show(found: TraceStats) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    sessions = f" in {found.sessions:,} sessions" if found.sessions else ""
    console.print(f"{found.format}: {found.requests:,} requests{sessions}{_rate(found)}")
    columns = {"input tokens": found.input, "output tokens": found.output}
    if found.sessions:
        columns["requests a session"] = found.requests_per_session
    if found.think["mean"] is not None:
        columns["thinking, s"] = found.think
    table = Table("", *columns, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for figure in found.input:
        table.add_row(figure, *(_number(values[figure]) for values in columns.values()))
    console.print(table)
    if found.reuse is None:
        console.print("reuse: nothing in the trace tells what prompts have in common")
    else:
        _show_reuse(console, found.reuse, found.requests)


def _rate(found: TraceStats) -> str:
    if found.duration is None or found.qps is None:
        return ""
    text = f" in {found.duration:,.0f} s, {found.qps:.2f} a second"
    return text if found.interarrival_cv is None else f"{text}, gaps vary with CV {found.interarrival_cv:.2f}"


def _show_reuse(console: Console, reuse: ReuseReport, requests: int) -> None:
    part = f" of the first {reuse.requests:,} requests" if reuse.requests < requests else ""
    console.print(
        f"reuse{part}: {reuse.hit_share:.1%} of {reuse.prompt_tokens:,} prompt tokens with a cache without limit "
        f"({reuse.unique_tokens:,} tokens)"
    )
    table = Table("cache of the fleet, tokens", "found", box=None, pad_edge=False)
    table.columns[0].justify = table.columns[1].justify = "right"
    for size, share in reuse.lru.items():
        table.add_row(f"{int(size):,}", f"{share:.1%}")
    console.print(table)
    if reuse.hit_tokens:
        for name, values in (("tokens", reuse.distance_tokens), ("seconds", reuse.distance_s)):
            text = ", ".join(f"{key} {_number(value)}" for key, value in values.items())
            console.print(f"{name} until a token is used again: {text}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"
