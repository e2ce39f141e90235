"""The page: whole, on its own, and safe with any name."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from tests.lab.test_report import POLICIES, runs

from pointsman.errors import ConfigError
from pointsman.lab.compare import Comparison
from pointsman.lab.html import check_writable, page, write_page
from pointsman.lab.html_charts import pareto_front
from pointsman.lab.html_svg import Axis, axis
from pointsman.lab.report import rungs

EMPTY = {"meta", "path"}


class Nesting(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        assert tag in EMPTY

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(results: list[Comparison]) -> Nesting:
    parser = Nesting()
    parser.feed(page(rungs(results)))
    assert not parser.open
    return parser


def test_a_ladder_has_every_chart_with_title_and_units() -> None:
    texts = parsed(runs(loads=(8.0, 2.0))).texts
    for title in (
        "Time to first token, P95",
        "Throughput",
        "Cache hit rate",
        "Pareto front",
        "Cache hit rate over time",
    ):
        assert title in texts
    for policy in POLICIES:
        assert texts.count(f"Heat map of the load: {policy}") == 2
        assert texts.count(f"Load of each pod: {policy}") == 2
    for label in (
        "milliseconds",
        "requests per second",
        "output tokens per second",
        "share of prompt tokens",
        "seconds",
    ):
        assert label in texts


def test_a_page_needs_nothing_else() -> None:
    text = page(rungs(runs()))
    assert not re.search(r"https?:|src=|href=|url\(|@import", text)
    assert "prefers-color-scheme" in text
    assert 'name="viewport"' in text


def test_names_are_escaped() -> None:
    odd = '<b onload="x">&'
    run = runs()[0]
    renamed = Comparison(msgspec.structs.replace(run.spec, policy=odd), run.result, run.best, run.indices)
    assert odd in "".join(parsed([renamed]).texts)
    assert odd not in page(rungs([renamed]))


def test_a_run_without_answers_is_a_page_too() -> None:
    run = runs()[0]
    empty = msgspec.structs.replace(run.result, rows=[], load=[])
    parsed([Comparison(run.spec, empty, run.best, run.indices)])


def test_the_file_is_written_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    check_writable(file)
    write_page(file, rungs(runs()))
    assert file.read_text().startswith("<!doctype html>")
    for bad in (tmp_path, tmp_path / "nowhere" / "x.html"):
        with pytest.raises(ConfigError, match="cannot write"):
            check_writable(bad)


def test_the_pareto_front_by_hand() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 7.0), (3.0, 7.0), (4.0, 9.0)]
    assert pareto_front(points) == [(1.0, 5.0), (2.0, 7.0), (4.0, 9.0)]
    assert pareto_front([]) == []


@pytest.mark.parametrize(
    ("made", "ticks"),
    [
        (axis("x", [3, 47]), [0, 10, 20, 30, 40, 50]),
        (axis("x", []), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (axis("x", [20, 3000], log=True), [10, 100, 1000, 10_000]),
        (axis("x", [0.5], percent=True), [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round(made: Axis, ticks: list[float]) -> None:
    assert made.ticks() == pytest.approx(ticks)
    assert made.at(made.low) == 0.0
    assert made.at(made.high) == 1.0
