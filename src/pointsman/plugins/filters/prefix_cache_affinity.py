"""Sticks to endpoints that hold the prompt, until they are so busy that another would be faster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import (
    APPROX_PREFIX_PRODUCER,
    INFLIGHT_PRODUCER,
    PREDICTED_LATENCY_PRODUCER,
    latency_prediction_key,
    prefix_match_key,
)
from pointsman.framework.plugin import Filter, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.producers.inflight_load import InflightProducerName, inflight_key, required_inflight
from pointsman.plugins.producers.predicted_latency import PredictionProducerName, required_predictions
from pointsman.plugins.scorers._prefix import ProducerName, prefix_match, required_producers

_ROUNDING = 1e-9  # worths of tiers are sums of fractions


class PrefixCacheAffinityParams(Params, frozen=True):
    """Parameters of ``prefix-cache-affinity-filter``, as in llm-d."""

    affinity_threshold: Annotated[
        float, Meta(ge=0, le=1, description="Share of the prompt from which an endpoint is sticky; 0 keeps all.")
    ] = 0.8
    exploration_probability: Annotated[
        float, Meta(ge=0, le=1, description="Share of requests for which all endpoints are kept.")
    ] = 0.0
    max_ttft_penalty_ms: Annotated[
        float,
        Meta(
            ge=0,
            description="Milliseconds by which the best sticky endpoint may be slower to its first token than the best "
            "other; beyond that all are kept. 0: always stick.",
        ),
    ] = msgspec.field(name="maxTTFTPenaltyMs", default=18_000.0)
    ttft_source: Annotated[
        Literal["prefillThroughput", "latencyPredictor"],
        Meta(
            description="Where the time to first token comes from: tokens in flight at peakPrefillThroughput, or the "
            "latency predictions of a producer."
        ),
    ] = msgspec.field(name="ttftSource", default="prefillThroughput")
    peak_prefill_throughput: Annotated[
        float, Meta(gt=0, description="Prompt tokens per second that an endpoint prefills at its best.")
    ] = 15_928.0
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER
    in_flight_load_producer_name: InflightProducerName = INFLIGHT_PRODUCER
    latency_prediction_info_producer_name: PredictionProducerName = PREDICTED_LATENCY_PRODUCER


@register("prefix-cache-affinity-filter")
class PrefixCacheAffinity(Filter[PrefixCacheAffinityParams]):
    """llm-d's "sticky until saturated". Picks count at once, so that a burst opens the valve within itself."""

    formula = (
        "keep those with matched / total blocks >= affinityThreshold; all if there is none, or if their best TTFT "
        "exceeds the best of the others by more than maxTTFTPenaltyMs; TTFT = tokens in flight / peakPrefillThroughput"
    )
    inputs = "prefix match, prompt tokens in flight or latency predictions, of the named producers"

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name) + self._gate_producers()

    def consumes(self) -> tuple[StateKey[Any], ...]:
        match = prefix_match_key(self.params.prefix_match_info_producer_name)
        return (match, self._gate_key()) if self.params.max_ttft_penalty_ms else (match,)

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        params = self.params
        if len(endpoints) < 2 or not params.affinity_threshold:
            return endpoints
        if params.exploration_probability and self.handle.rng.random() < params.exploration_probability:
            return endpoints
        match = prefix_match(state, params.prefix_match_info_producer_name)
        floor = params.affinity_threshold - _ROUNDING
        sticky = [endpoint for endpoint in endpoints if match.share(endpoint.slot) >= floor]
        if not sticky or len(sticky) == len(endpoints) or not params.max_ttft_penalty_ms:
            return sticky or endpoints
        chosen = {endpoint.id for endpoint in sticky}
        ttft = self._ttft(state)
        best = min((ttft.get(e.slot, math.inf) for e in sticky), default=math.inf)
        other = min((ttft.get(e.slot, math.inf) for e in endpoints if e.id not in chosen), default=math.inf)
        if math.isinf(best) or math.isinf(other):
            return endpoints  # without a figure nobody can say that sticking is worth it; as in llm-d
        return endpoints if best - other > params.max_ttft_penalty_ms else sticky

    def _ttft(self, state: CycleState) -> Mapping[int, float]:
        """Milliseconds to the first token by slot."""
        params = self.params
        if params.ttft_source == "latencyPredictor":
            key = latency_prediction_key(params.latency_prediction_info_producer_name)
            return {slot: prediction.ttft_ms for slot, prediction in state.get(key, {}).items()}
        tokens = state.read(inflight_key(params.in_flight_load_producer_name)).tokens
        return {slot: count / params.peak_prefill_throughput * 1000 for slot, count in tokens.items()}

    def _gate_key(self) -> StateKey[Any]:
        if self.params.ttft_source == "latencyPredictor":
            return latency_prediction_key(self.params.latency_prediction_info_producer_name)
        return inflight_key(self.params.in_flight_load_producer_name)

    def _gate_producers(self) -> tuple[PluginSpec, ...]:
        if not self.params.max_ttft_penalty_ms:
            return ()
        if self.params.ttft_source == "latencyPredictor":
            return required_predictions(self.params.latency_prediction_info_producer_name)
        return required_inflight(self.params.in_flight_load_producer_name)
