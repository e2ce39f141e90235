from __future__ import annotations

from typing import Any

import pytest
from tests.builders import make_endpoint, make_handle, make_plugin, make_request

from pointsman.api.endpoint import InflightLoad
from pointsman.errors import AdmissionDeniedError
from pointsman.framework.keys import LatencyPrediction, latency_prediction_key
from pointsman.framework.state import CycleState
from pointsman.plugins.admitters.latency_slo import LatencySloAdmitter

BUSY = {"running": 4, "kv_usage": 0.5}
SHEDDABLE: dict[str, Any] = {"priority": -1, "slo_ttft_ms": 100.0}


def refused(
    headrooms: dict[int, tuple[float, float]], pods: list[dict[str, Any]], request: dict[str, Any], **loads: Any
) -> bool:
    state = CycleState()
    predictions = {slot: LatencyPrediction(1.0, 1.0, *values) for slot, values in headrooms.items()}
    state.write(latency_prediction_key(), predictions)
    state.seal()
    admitter = make_plugin(LatencySloAdmitter, make_handle(loads.get("loads")))
    endpoints = [make_endpoint(slot, **metrics) for slot, metrics in enumerate(pods)]
    try:
        admitter.admit(make_request(**request), endpoints, state)
    except AdmissionDeniedError:
        return True
    return False


@pytest.mark.parametrize(
    ("headrooms", "pods", "request_fields", "expected"),
    [
        ({0: (-1, 5), 1: (5, -1)}, [BUSY, BUSY], SHEDDABLE, True),
        ({0: (-1, 5), 1: (0, 0)}, [BUSY, BUSY], SHEDDABLE, False),  # the second one just makes it
        ({0: (-1, -1)}, [BUSY], SHEDDABLE | {"priority": 0}, False),  # not sheddable
        ({0: (-1, -1)}, [BUSY], {"priority": -1}, False),  # asks for nothing
        ({0: (-1, -1)}, [BUSY], {"priority": -1, "slo_tpot_ms": 9.0}, True),
        ({0: (-1, -1)}, [BUSY | {"running": 0}], SHEDDABLE, False),  # idle
        ({0: (-1, -1)}, [BUSY | {"kv_usage": 0.019}], SHEDDABLE, False),  # cold
        ({0: (-1, -1)}, [BUSY | {"kv_usage": 0.02}], SHEDDABLE, True),
        ({0: (-1, -1)}, [BUSY, BUSY], SHEDDABLE, False),  # nothing is known of the second one
        ({}, [BUSY], SHEDDABLE, False),
    ],
)
def test_who_is_refused(
    headrooms: dict[int, tuple[float, float]],
    pods: list[dict[str, Any]],
    request_fields: dict[str, Any],
    expected: bool,
) -> None:
    assert refused(headrooms, pods, request_fields) is expected


def test_without_gauges_the_ledger_says_who_is_busy() -> None:
    busy = InflightLoad(requests=50, decoding=50, context_tokens=50_000)
    assert refused({0: (-1, -1)}, [{}], SHEDDABLE, loads={0: busy})
    assert not refused({0: (-1, -1)}, [{}], SHEDDABLE)


def test_brings_its_predictions_along() -> None:
    (spec,) = make_plugin(LatencySloAdmitter).requires()
    assert spec.type == "predicted-latency-producer"
    assert make_plugin(LatencySloAdmitter, latencyPredictionInfoProducerName="own").requires() == ()
