"""Keeps endpoints that are expected to meet the request's latency objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import PREDICTED_LATENCY_PRODUCER, latency_prediction_key
from pointsman.framework.plugin import Filter, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.producers.predicted_latency import PredictionProducerName, required_predictions


class SloHeadroomTierParams(Params, frozen=True):
    """Parameters of ``slo-headroom-tier-filter``, as in llm-d."""

    epsilon_explore_neg: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of requests for which only endpoints expected to miss an objective are kept, so that "
            "they are tried again.",
        ),
    ] = 0.01
    latency_prediction_info_producer_name: PredictionProducerName = PREDICTED_LATENCY_PRODUCER


@register("slo-headroom-tier-filter")
class SloHeadroomTier(Filter[SloHeadroomTierParams]):
    """An endpoint without a prediction counts as one that misses; without predictions or objectives all are kept."""

    formula = (
        "keep those with TTFT headroom >= 0 and TPOT headroom >= 0, if any; the others in a share epsilonExploreNeg"
    )
    inputs = "latency predictions of the named producer (objective minus prediction)"

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_predictions(self.params.latency_prediction_info_producer_name)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return (latency_prediction_key(self.params.latency_prediction_info_producer_name),)

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        predictions = state.get(latency_prediction_key(self.params.latency_prediction_info_producer_name), {})
        if not predictions or len(endpoints) < 2:
            return endpoints
        meets = {slot for slot, prediction in predictions.items() if prediction.positive}
        positive = [endpoint for endpoint in endpoints if endpoint.slot in meets]
        if not positive or len(positive) == len(endpoints):
            return endpoints
        explore = self.params.epsilon_explore_neg
        if explore and self.handle.rng.random() < explore:
            return [endpoint for endpoint in endpoints if endpoint.slot not in meets]
        return positive
