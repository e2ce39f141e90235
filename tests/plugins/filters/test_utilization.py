from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_endpoints, make_handle, make_plugin, make_request

from pointsman.api.endpoint import Growth, InflightLoad
from pointsman.framework.state import CycleState
from pointsman.plugins.filters.utilization import Utilization
from pointsman.plugins.producers.inflight_load import InflightLoadProducer

REQUEST = make_request()
ENDPOINTS = [
    make_endpoint(0, waiting=0, running=9, kv_usage=0.5),
    make_endpoint(1, waiting=5, running=10, kv_usage=0.8),
    make_endpoint(2, waiting=6, running=11, kv_usage=0.81),
    make_endpoint(3),  # never read
]


def cap(metric: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "maxValue": value}


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ([cap("waiting-queue", 5)], [0, 1, 3]),
        ([cap("running-requests", 10)], [0, 1, 3]),
        ([cap("kv-cache-utilization", 0.8)], [0, 1, 3]),
        ([cap("active-requests", 2)], [0, 2]),
        ([cap("waiting-queue", 0), cap("active-requests", 2)], [0]),
    ],
)
def test_table(conditions: list[dict[str, Any]], kept: list[int]) -> None:
    # In flight 2, 3 and 0. Endpoint 3 has 3 decoding for little context, and no reading: the ledger speaks for it.
    loads: dict[int | str, InflightLoad] = {
        0: InflightLoad(requests=2),
        1: InflightLoad(requests=3),
        3: InflightLoad(requests=3, decoding=3),
    }
    handle, state = make_handle(loads), CycleState()
    make_plugin(InflightLoadProducer, handle).produce(REQUEST, ENDPOINTS, state)
    result = make_plugin(Utilization, handle, conditions=conditions).filter(REQUEST, ENDPOINTS, state)
    assert [endpoint.slot for endpoint in result] == kept


def test_a_burst_counts_before_the_next_reading() -> None:
    handle = make_handle(growths={0: Growth(pending=6)})
    plugin = make_plugin(Utilization, handle, conditions=[cap("waiting-queue", 5)])
    assert [e.slot for e in plugin.filter(REQUEST, ENDPOINTS[:2], CycleState())] == [1]


def test_a_stale_reading_takes_nobody_out() -> None:
    endpoints = make_endpoints(2, waiting=99, kv_usage=1.0, updated=90.0)
    caps = [cap("waiting-queue", 5), cap("kv-cache-utilization", 0.5)]
    assert make_plugin(Utilization, conditions=caps).filter(REQUEST, endpoints, CycleState()) == endpoints


def test_fallback_on_empty() -> None:
    endpoints, caps = make_endpoints(2, waiting=9), [cap("waiting-queue", 5)]
    assert not make_plugin(Utilization, conditions=caps).filter(REQUEST, endpoints, CycleState())
    lenient = make_plugin(Utilization, conditions=caps, fallbackOnEmpty=True)
    assert lenient.filter(REQUEST, endpoints, CycleState()) == endpoints


def test_asks_for_the_ledger_only_when_it_looks_at_it() -> None:
    assert make_plugin(Utilization, conditions=[cap("waiting-queue", 5)]).requires() == ()
    active = make_plugin(Utilization, conditions=[cap("active-requests", 5)])
    assert [spec.type for spec in active.requires()] == [InflightLoadProducer.type]
    named = make_plugin(Utilization, conditions=[cap("active-requests", 5)], inFlightLoadProducerName="mine")
    assert named.requires() == ()
    assert named.consumes() == make_plugin(InflightLoadProducer, name="mine").produces()


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([], "conditions must hold at least one"),
        ([cap("kv-cache-utilization", 80)], "share, at most 1"),
        ([cap("waiting-queue", -1)], "maxValue"),
        ([{"metric": "waiting-queue"}], "maxValue"),
        ([cap("gpu", 1)], "metric"),
    ],
)
def test_refuses(conditions: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        make_plugin(Utilization, conditions=conditions)
