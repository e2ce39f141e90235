"""The load that an answer carries finds its way out."""

from __future__ import annotations

from typing import Any

import pytest
from tests.requestcontrol.rig import CHAT, Rig

from pointsman.api.request import RequestHead
from pointsman.extproc.answer import LOAD_METRICS
from pointsman.extproc.stream import Stream
from pointsman.extproc.wire import BodyMode, Continue, RequestBody, RequestHeaders, ResponseHeaders

HEADER = "TEXT named_metrics.kv_cache_usage_perc=0.5, named_metrics.num_requests_waiting=3.0"


def answer(rig: Rig, headers: dict[str, str], served: str = "") -> list[Any]:
    errors: list[Exception] = []
    stream = Stream(rig, on_error=errors.append)
    head = RequestHead({":method": "POST", ":path": CHAT})
    stream.feed(RequestHeaders(head, False, BodyMode.BUFFERED, BodyMode.NONE))
    stream.feed(RequestBody(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}', True))
    replies = stream.feed(ResponseHeaders({":status": "200", **headers}, served=served))
    stream.close()
    assert isinstance(replies[0], Continue)
    return errors


def test_is_told_with_the_pod_that_answered() -> None:
    rig = Rig()
    told: list[tuple[str, str]] = []
    rig.director._committer._on_load = lambda place, text: told.append((place, text))
    assert not answer(rig, {})
    assert not told
    assert not answer(rig, {LOAD_METRICS: HEADER})
    assert not answer(rig, {LOAD_METRICS: HEADER}, served="10.0.0.7:8000")
    assert told[0][0] in {endpoint.hostport for endpoint in rig.endpoints}
    assert told[0][1] == HEADER
    assert told[1] == ("10.0.0.7:8000", HEADER)


def test_nobody_wants_it_or_it_fails() -> None:
    rig = Rig()
    assert not answer(rig, {LOAD_METRICS: HEADER})

    def broken(place: str, text: str) -> None:
        raise ValueError(place)

    rig.director._committer._on_load = broken
    (error,) = answer(rig, {LOAD_METRICS: HEADER})
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="10"):
        raise error
