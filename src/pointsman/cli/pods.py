"""``pointsman pods``: what a running picker knows of each pod."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pointsman.cli.common import print_json
from pointsman.errors import ConfigError, StartupError

TIMEOUT = 5.0

Pod = dict[str, Any]


def pods(
    *,
    admin: str = "http://127.0.0.1:9090",
    watch: Annotated[bool, Parameter(negative=())] = False,
    every: float = 1.0,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show what a running picker knows of each pod: health and why, load and its age, engine, cache, latencies.

    ```console
    pointsman pods
    pointsman pods --admin http://10.0.0.5:9090 --watch
    pointsman pods --json
    pointsman pods --watch --every 5 --json
    ```

    Parameters
    ----------
    admin
        Where the picker's admin server answers (--admin-host and --admin-port of epp and up).
    watch
        Refresh until interrupted.
    every
        Seconds between two refreshes.
    json
        One JSON document; with --watch one line for each refresh.
    """
    if not 0.1 <= every <= 3600:
        raise ConfigError(f"expected 0.1 to 3600 seconds, got {every}", field="--every")
    if not admin.startswith(("http://", "https://")):
        raise ConfigError(f"{admin!r} is no URL", field="--admin", hint="such as http://127.0.0.1:9090")
    if not watch:
        found = ask(admin)
        if json:
            print_json({"pods": found})
        else:
            Console(soft_wrap=not sys.stdout.isatty()).print(table(found))
        return 0
    _watch_json(admin, every) if json else _watch_table(admin, every)
    return 0


def ask(admin: str) -> list[Pod]:
    """What the picker says.

    Raises:
        StartupError: if no picker answers there.
    """
    url = f"{admin.rstrip('/')}/pods"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 - the scheme was checked
            found: list[Pod] = msgspec.json.decode(answer.read())["pods"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        raise StartupError(
            f"no picker answers at {url}: {why}; start one with `pointsman up` or `pointsman epp`, or name its --admin"
        ) from error
    return found


def _watch_json(admin: str, every: float) -> None:
    while True:
        sys.stdout.write(msgspec.json.encode({"pods": ask(admin)}).decode() + "\n")
        sys.stdout.flush()
        time.sleep(every)


def _watch_table(admin: str, every: float) -> None:
    with Live(table(ask(admin)), auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(table(ask(admin)), refresh=True)


_COLUMNS = ("pod", "health", "age", "wait", "run", "KV", "sent", "hits", "TTFT", "ITL")
_WORDS = frozenset({"pod", "health"})
"""Columns of text, which may be folded; the others are numbers."""
_WIDTHS = {"age": 8, "wait": 4, "run": 4, "KV": 4, "sent": 4, "hits": 4, "TTFT": 9, "ITL": 7}
_NOTE = (
    "age: of the numbers (*: too old to count). sent: requests in flight by the picker's own count. "
    "TTFT, ITL: the engine's own p50/p95, ms."
)


def table(found: list[Pod]) -> Group:
    """The load of each pod as a table that fits into 80 columns, and below it a line on each of what it is."""
    healthy = sum(bool(pod.get("healthy")) for pod in found)
    load = Table(title=f"{len(found)} pods, {healthy} healthy", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in _COLUMNS:
        words = name in _WORDS
        load.add_column(
            name, justify="left" if words else "right", overflow="fold", no_wrap=not words, min_width=_WIDTHS.get(name)
        )
    for pod in found:
        load.add_row(*[escape(cell) for cell in load_cells(pod)])
    facts = [f"[bold]{escape(str(pod.get('id', '?')))}[/]: {escape(' · '.join(facts_of(pod)))}" for pod in found]
    return Group(load, *facts, f"[dim]{_NOTE}[/]")


def load_cells(pod: Pod) -> tuple[str, ...]:
    """What a pod does, ``–`` where nothing is known."""
    metrics, in_flight = pod.get("metrics") or {}, pod.get("in_flight") or {}
    age = pod.get("metrics_age_ms")
    known = age is not None
    return (
        str(pod.get("id", "?")).removeprefix("default/"),
        _health(pod),
        "–" if age is None else f"{age / 1000:.1f} s" + ("" if pod.get("fresh", True) else " *"),
        str(metrics.get("waiting", 0)) if known else "–",
        str(metrics.get("running", 0)) if known else "–",
        f"{metrics.get('kv_usage', 0):.0%}" if known else "–",
        str(in_flight.get("requests", 0)),
        _hits(metrics),
        _quantiles(metrics.get("ttft")),
        _quantiles(metrics.get("itl")),
    )


def facts_of(pod: Pod) -> list[str]:
    """What a pod is, as far as it is known."""
    metrics = pod.get("metrics") or {}
    ranks = metrics.get("ranks", 1)
    facts = (
        str(pod.get("hostport", "")),
        (metrics.get("engine") or "") + (f" ×{ranks}" if ranks > 1 else ""),
        _blocks(metrics),
        _events(pod.get("kv_events")),
        f"read: {_read(pod, metrics)}",
        _models(metrics),
    )
    return [fact for fact in facts if fact and fact != "–"]


def _health(pod: Pod) -> str:
    if pod.get("healthy"):
        return "draining" if pod.get("draining") else "ok"
    return f"out: {pod.get('why') or 'unknown'}"


def _read(pod: Pod, metrics: dict[str, Any]) -> str:
    """Where the numbers are from, and how often they are read."""
    reading = pod.get("reading") or {}
    if pod.get("metrics_age_ms") is None:
        return f"never: {reading['last']}" if reading.get("last") else "never"
    period = f" every {reading['period_s']:.1f} s" if "period_s" in reading else ""
    return f"{metrics.get('source') or 'scrape'}{period}"


def _blocks(metrics: dict[str, Any]) -> str:
    count, size = metrics.get("num_blocks"), metrics.get("block_size")
    return f"{count or '?'} blocks × {size or '?'} tokens" if count or size else "–"


def _hits(metrics: dict[str, Any]) -> str:
    queries = metrics.get("prefix_queries") or 0
    return f"{metrics.get('prefix_hits', 0) / queries:.0%}" if queries else "–"


def _quantiles(found: dict[str, Any] | None) -> str:
    return f"{found['p50'] * 1000:.0f}/{found['p95'] * 1000:.0f}" if found else "–"


def _models(metrics: dict[str, Any]) -> str:
    lora = metrics.get("lora") or {}
    adapters = sorted({*lora.get("running", ()), *lora.get("waiting", ()), *lora.get("available", ())})
    names = [*sorted(metrics.get("models") or ()), *[f"+{name}" for name in adapters]]
    return " ".join(names) or "–"


def _events(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    blocks = sum((found.get("blocks") or {}).values())
    lag = f", {found['lag_ms']:.0f} ms behind" if found.get("lag_ms") is not None else ""
    state = "" if found.get("connected") else "cut off, "
    return f"KV events: {state}{blocks} blocks, {found.get('confidence', 0):.0%} sure{lag}"
