from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.plugins.filters.queue_depth import QueueDepth


@pytest.mark.parametrize(
    ("parameters", "waiting", "kept"),
    [
        ({}, [0, 49, 50, 51], [0, 1]),
        ({"maxQueueLength": 200}, [199, 200], [0]),
        ({"maxQueueLength": 1}, [0, 1], [0]),
        ({}, [60, 70], []),
        ({}, [], []),
    ],
)
def test_keeps_what_is_below(parameters: dict[str, Any], waiting: list[int], kept: list[int]) -> None:
    endpoints = [make_endpoint(slot, waiting=count) for slot, count in enumerate(waiting)]
    result = make_plugin(QueueDepth, **parameters).filter(make_request(), endpoints, make_state())
    assert [endpoint.slot for endpoint in result] == kept


def test_never_scraped_is_kept() -> None:
    assert make_plugin(QueueDepth).filter(make_request(), [make_endpoint()], make_state()) == [make_endpoint()]


def test_refuses_a_limit_that_keeps_nothing() -> None:
    with pytest.raises(msgspec.ValidationError, match="maxQueueLength"):
        make_plugin(QueueDepth, maxQueueLength=0)
