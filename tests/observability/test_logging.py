"""Logs: a JSON object per line, quiet where asked to be, and never an exception."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pointsman.observability.logging import LEVELS, logger, setup


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert not out
    return [json.loads(line) for line in err.splitlines()]


def test_a_line_is_an_object_with_its_logger_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    setup()
    logger("picker").warning("something", endpoint="default/pod-0", count=3)
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "logger": "picker",
        "level": "warning",
        "event": "something",
        "endpoint": "default/pod-0",
        "count": 3,
    }


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_nothing_below_the_level_is_shown(capsys: pytest.CaptureFixture[str], level: str, shown: int) -> None:
    setup(level, json=True)
    log = logger("x")
    for name in LEVELS:
        getattr(log, name)(name)
    assert [line["event"] for line in lines(capsys)] == list(LEVELS)[-shown:]


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (b"\xff", "/w=="),
        (float("inf"), None),
        (10**30, 10**30),
        (ValueError("why"), "why"),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        ("two\nlines \N{GRINNING FACE}", "two\nlines \N{GRINNING FACE}"),
        ("no text \udc80", "no text \udc80"),
        ([ValueError("why"), "no text \udc80"], ["why", "no text \udc80"]),
    ],
)
def test_any_value_can_be_logged(capsys: pytest.CaptureFixture[str], value: Any, logged: Any) -> None:
    setup(json=True)
    logger("x").info("value", value=value)
    assert lines(capsys)[0]["value"] == logged


def test_an_exception_is_logged_with_its_trace_on_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup(json=True)
    logger("x").error("failed", exc_info=ZeroDivisionError("by nothing"))
    (line,) = lines(capsys)
    assert "ZeroDivisionError: by nothing" in line["exception"]


class Unread(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("as_json", [True, False])
def test_standard_error_that_is_gone_loses_the_line_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    setup(json=as_json)
    closed = io.StringIO()
    closed.close()
    for gone in (closed, Unread()):
        monkeypatch.setattr(sys, "stderr", gone)
        logger("x").error("nobody hears this")


def test_text_for_people_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    setup(json=False)
    logger("picker").info("serving", port=9002)
    out, err = capsys.readouterr()
    assert not out
    assert all(word in err for word in ("serving", "port=9002", "picker"))
    assert not err.startswith("{")
