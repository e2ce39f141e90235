"""Plugins hear of first tokens: once, of the answers that are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.requestcontrol.rig import Rig, write_config

CODE = """
from pointsman.framework.plugin import FirstTokenObserver, Params, Scorer, register


@register("hears-first-tokens")
class HearsFirstTokens(Scorer[Params], FirstTokenObserver):
    def setup(self):
        self.heard = []

    def score(self, request, endpoints, state):
        return [1.0] * len(endpoints)

    def first_token(self, request):
        self.heard.append(request.id)
        if request.id == "bad":
            raise ValueError("no")
"""


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(write_config(tmp_path, ["hears-first-tokens"], code=CODE, observeShare=1.0))


def heard(rig: Rig) -> list[str]:
    plugin: Any = rig.plan.plugins["hears-first-tokens"]
    return list(plugin.heard)


def test_of_a_stream_the_first_piece_tells_and_its_head_does_not(rig: Rig) -> None:
    exchange = rig.ask(stream=True, headers={"x-request-id": "a"})
    exchange.response_headers(200, event_stream=True)
    assert heard(rig) == []
    for _ in range(3):
        exchange.response_body(b"data: {}\n\n", last=False)
    assert heard(rig) == ["a"]


def test_of_a_plain_answer_the_head_tells_once(rig: Rig) -> None:
    exchange = rig.ask(headers={"x-request-id": "a"})
    exchange.response_headers(200, event_stream=False)
    exchange.response_body(b"{}", last=True)
    exchange.end("complete")
    assert heard(rig) == ["a"]


def test_an_end_without_a_token_tells_nothing(rig: Rig) -> None:
    exchange = rig.ask(stream=True)
    exchange.end("upstream-reset")
    exchange.response_body(b"data: {}\n\n", last=False)
    assert heard(rig) == []


def test_a_plugin_that_raises_is_counted_and_the_answer_goes_on(rig: Rig) -> None:
    exchange = rig.ask(stream=True, headers={"x-request-id": "bad"})
    exchange.response_headers(200, event_stream=True)
    exchange.response_body(b"data: {}\n\n", last=False)
    exchange.end("complete")
    labels = {"plugin": "hears-first-tokens", "point": "first-token"}
    assert rig.count("plugin_errors_total", **labels) == 1
    assert rig.ledger.totals() == (0, 0)
