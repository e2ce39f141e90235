"""A comparison as one HTML page that needs nothing else: no network, no library, no other file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from pointsman import __version__
from pointsman.errors import ConfigError
from pointsman.lab.html_charts import Styles, ladder_charts, rung_charts
from pointsman.lab.html_style import SCRIPT, STYLE
from pointsman.lab.html_svg import swatch
from pointsman.lab.report import Rung
from pointsman.lab.report_figures import COLUMNS, at_best, cell, subject

LADDER_DETAIL = 20.0
"""Requests per second of the rung that is unfolded when there are several: the one nearest to it."""


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before anything takes time.

    Raises:
        ConfigError: if its folder does not exist, or it is a folder itself.
    """
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder")


def write_page(path: Path, rungs: Sequence[Rung]) -> None:
    """Write the page.

    Raises:
        ConfigError: if the file cannot be written.
    """
    try:
        path.write_text(page(rungs), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}", field="--html") from error


def page(rungs: Sequence[Rung]) -> str:
    """The page as text; at least one rung."""
    names = dict.fromkeys(name for rung in rungs for name in rung.policies)
    styles = {name: number for number, name in enumerate(names)}
    body = [_head(rungs), _legend(styles)]
    for workload in dict.fromkeys(rung.workload for rung in rungs):
        own = [rung for rung in rungs if rung.workload == workload]
        if len(own) > 1:
            body.append(_section(f"{workload}: as the load grows", ladder_charts(own, styles)))
        unfolded = min(own, key=lambda rung: abs((rung.qps or 0.0) - LADDER_DETAIL))
        body += [_rung(rung, styles, folded=rung is not unfolded) for rung in own]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Pointsman: policies compared</title><style>{STYLE}</style></head><body>"
        f"{''.join(body)}<script>{SCRIPT}</script></body></html>\n"
    )


def _head(rungs: Sequence[Rung]) -> str:
    seeds = max(len(runs) for rung in rungs for runs in rung.policies.values())
    several = f" Figures are means of {seeds} seeds; curves over time show the first." if seeds > 1 else ""
    return (
        f"<header><h1>Policies compared</h1><p class=dim>{escape(subject(rungs[0].first, load=len(rungs) == 1))}. "
        f"Simulated by Pointsman {escape(__version__)}; times are simulated time.{several}</p></header>"
    )


def _legend(styles: Styles) -> str:
    buttons = [
        f'<button type=button data-s="{number}" aria-pressed=false>{swatch(number)}{escape(name)}</button>'
        for name, number in styles.items()
    ]
    best = f"<button type=button disabled>{swatch(-1)}at best</button>"
    return f'<nav class=legend aria-label="Policies">{"".join(buttons)}{best}</nav>'


def _section(title: str, charts: Sequence[str]) -> str:
    return f"<section><h2>{escape(title)}</h2><div class=charts>{''.join(charts)}</div></section>"


def _rung(rung: Rung, styles: Styles, *, folded: bool) -> str:
    inside = f"{_table(rung)}<div class=charts>{''.join(rung_charts(rung, styles))}</div>"
    opened = "" if folded else " open"
    return f"<details{opened}><summary>{escape(rung.title)}</summary>{inside}</details>"


def _table(rung: Rung) -> str:
    head = "".join(f"<th>{escape(column.name)}</th>" for column in COLUMNS)
    rows = []
    for name, runs in rung.policies.items():
        cells = "".join(
            f"<td>{escape(cell([column.pick(run) for run in runs], column.form))}</td>" for column in COLUMNS
        )
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    best = "".join(f"<td>{escape(text)}</td>" for text in at_best(rung.first))
    rows.append(f"<tr class=best><td>at best</td>{best}</tr>")
    requests = statistics.fmean(len(run.result.measured()) for runs in rung.policies.values() for run in runs)
    note = f"<p class=dim>{requests:,.0f} requests; times in milliseconds. {_EXPLAIN}</p>"
    return f"{note}<div class=scroll><table><tr><th>policy</th>{head}</tr>{''.join(rows)}</table></div>"


_EXPLAIN = (
    "At best: hits of an ideal LRU cache of the whole fleet's capacity, shared by all pods, and times to first token "
    "that no policy can be under."
)
