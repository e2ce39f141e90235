"""Refuses sheddable requests whose latency objectives no endpoint can meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.errors import AdmissionDeniedError
from pointsman.framework.gauges import gauges, kv_usage
from pointsman.framework.keys import PREDICTED_LATENCY_PRODUCER, latency_prediction_key
from pointsman.framework.plugin import Admitter, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.producers.predicted_latency import PredictionProducerName, required_predictions

COLD_KV_USAGE = 0.02
"""llm-d's bound: below it an endpoint has just started, and predictions for it say little."""


class LatencySloParams(Params, frozen=True):
    """Parameters of ``latency-slo-admitter``, as in llm-d."""

    latency_prediction_info_producer_name: PredictionProducerName = PREDICTED_LATENCY_PRODUCER


@register("latency-slo-admitter")
class LatencySloAdmitter(Admitter[LatencySloParams]):
    """Asks for a negative priority and for objectives: nobody else is ever refused, nor is anybody without predictions.

    Gauges are corrected by the ledger, so that a burst does not find every endpoint idle.
    """

    formula = (
        "refuse (429) if priority < 0, the request has objectives, and every endpoint misses one of them, "
        "has requests and uses 2 % of its KV cache or more"
    )
    inputs = "priority and objectives of the request, latency predictions, corrected gauges"

    def setup(self) -> None:
        self._key = latency_prediction_key(self.params.latency_prediction_info_producer_name)

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_predictions(self.params.latency_prediction_info_producer_name)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return (self._key,)

    def admit(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        if request.priority >= 0 or (request.slo_ttft_ms is None and request.slo_tpot_ms is None):
            return
        predictions = state.get(self._key)
        if not predictions:
            return
        for endpoint in endpoints:
            prediction = predictions.get(endpoint.slot)
            if prediction is None or prediction.positive or not self._busy(endpoint):
                return
        raise AdmissionDeniedError("no endpoint can meet the latency objectives of this sheddable request")

    def _busy(self, endpoint: Endpoint) -> bool:
        return any(gauges(endpoint, self.handle)) and kv_usage(endpoint, self.handle) >= COLD_KV_USAGE
