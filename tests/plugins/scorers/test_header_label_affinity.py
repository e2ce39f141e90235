from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_result, make_state

from pointsman.api.result import SchedulingResult
from pointsman.plugins.scorers.header_label_affinity import HeaderLabelAffinity

ENDPOINTS = [make_endpoint(0), make_endpoint(1, labels={"zone": "a"}), make_endpoint(2, labels={"zone": "b"})]


@pytest.mark.parametrize(
    ("headers", "scores"),
    [
        ({}, [0.0, 0.0, 0.0]),
        ({"x-zone": "a"}, [0.0, 1.0, 0.0]),
        ({"x-zone": "c"}, [0.0, 0.0, 0.0]),
        ({"x-zone": ""}, [0.0, 0.0, 0.0]),
    ],
)
def test_table(headers: dict[str, str], scores: list[float]) -> None:
    plugin = make_plugin(HeaderLabelAffinity, headerName="X-Zone", labelKey="zone")
    assert plugin.score(make_request(headers=headers), ENDPOINTS, make_state()) == scores


def test_answers_carry_the_label_of_who_served() -> None:
    plugin = make_plugin(HeaderLabelAffinity, headerName="x-zone", labelKey="zone")
    run = msgspec.structs.replace(make_result(ENDPOINTS[1]).profiles["default"], targets=tuple(ENDPOINTS[1:]))
    plugin.picked(make_request(), SchedulingResult("default", {"default": run}), make_state())
    assert plugin.answer_headers(make_request(), ENDPOINTS[1], "") == {"x-zone": "a"}
    assert plugin.answer_headers(make_request(), ENDPOINTS[1], ENDPOINTS[2].hostport) == {"x-zone": "b"}
    assert plugin.answer_headers(make_request(), ENDPOINTS[0], "") == {}
    plugin.endpoint_removed(ENDPOINTS[2])
    assert plugin.answer_headers(make_request(), ENDPOINTS[1], ENDPOINTS[2].hostport) == {}


def test_answers_do_not_when_told_so() -> None:
    plugin = make_plugin(HeaderLabelAffinity, headerName="x-zone", labelKey="zone", stampResponseHeader=False)
    assert plugin.answer_headers(make_request(), ENDPOINTS[1], "") == {}


@pytest.mark.parametrize(
    ("parameters", "message"), [({"labelKey": "zone"}, "headerName"), ({"headerName": "x-zone"}, "labelKey")]
)
def test_refuses(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        make_plugin(HeaderLabelAffinity, **parameters)
