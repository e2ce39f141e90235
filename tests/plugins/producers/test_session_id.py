from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_plugin, make_request

from pointsman.framework.keys import SESSION_ID_KEY
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.session_id import SessionIdProducer


def found(headers: dict[str, str], **parameters: Any) -> str | None:
    state = CycleState()
    make_plugin(SessionIdProducer, **parameters).produce(make_request(headers=headers), [], state)
    return state.get(SESSION_ID_KEY)


@pytest.mark.parametrize(
    ("headers", "parameters", "expected"),
    [
        ({"x-session-id": "a"}, {}, "a"),
        ({"x-session-id": " "}, {}, None),
        ({"x-session-id": "a" * 1025}, {}, None),
        ({}, {}, None),
        ({"x-mine": "b", "x-session-id": "a"}, {"headerName": "X-Mine"}, "b"),
        ({"cookie": "s=1; sid=two; other=3"}, {"cookieName": "sid"}, "two"),
        ({"cookie": 'a=b, sid="two"'}, {"cookieName": "sid"}, "two"),
        ({"cookie": "sid=x=y"}, {"cookieName": "sid"}, "x=y"),
        ({"cookie": "xsid=1; sid"}, {"cookieName": "sid"}, None),
        ({"x-session-id": "a"}, {"cookieName": "sid"}, None),
    ],
)
def test_where_the_id_stands(headers: dict[str, str], parameters: dict[str, Any], expected: str | None) -> None:
    assert found(headers, **parameters) == expected


def test_one_source_only() -> None:
    with pytest.raises(msgspec.ValidationError, match="headerName and cookieName exclude each other"):
        make_plugin(SessionIdProducer, headerName="a", cookieName="b")
