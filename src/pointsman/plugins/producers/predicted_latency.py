"""Predicts time to first token and time per token of the request at every endpoint, from the picker's latency model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import (
    APPROX_PREFIX_PRODUCER,
    PREDICTED_LATENCY_PRODUCER,
    LatencyPrediction,
    latency_prediction_key,
    prefix_match_key,
)
from pointsman.framework.plugin import DataProducer, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.scorers._prefix import ProducerName, cached_tokens, prefix_match, required_producers

_WITHOUT_EFFECT = "Accepted for llm-d's sake, without effect: no sidecar is trained or asked."

PredictionProducerName = Annotated[
    str, Meta(min_length=1, description="Name of the producer whose latency predictions are read.")
]


def required_predictions(name: str) -> tuple[PluginSpec, ...]:
    """The producer under its default name; one of another name has to be configured."""
    return (PluginSpec(type=PREDICTED_LATENCY_PRODUCER, name=name),) if name == PREDICTED_LATENCY_PRODUCER else ()


class PredictedLatencyProducerParams(Params, frozen=True):
    """Parameters of ``predicted-latency-producer``, as in llm-d, and ``prefixMatchInfoProducerName`` of ours."""

    slo_buffer_factor: Annotated[
        float, Meta(gt=0, description="Objectives are multiplied by it: below 1 leaves room for error.")
    ] = 1.0
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER
    context_ttl: Annotated[str, Meta(description=_WITHOUT_EFFECT)] = msgspec.field(name="contextTTL", default="5m")
    streaming_mode: Annotated[bool, Meta(description=_WITHOUT_EFFECT)] = False
    endpoint_role_label: Annotated[str, Meta(description=_WITHOUT_EFFECT)] = ""
    predict_in_produce: Annotated[bool, Meta(description=_WITHOUT_EFFECT)] = True
    use_encoder_cache_features: Annotated[bool, Meta(description=_WITHOUT_EFFECT)] = False
    sampling_mean: Annotated[float, Meta(description=_WITHOUT_EFFECT)] = 1000
    max_decode_token_samples_for_prediction: Annotated[int, Meta(description=_WITHOUT_EFFECT)] = 0


@register(PREDICTED_LATENCY_PRODUCER)
class PredictedLatencyProducer(DataProducer[PredictedLatencyProducerParams]):
    """llm-d asks Python sidecars over HTTP; here it is the model and the ledger that the default policy uses, too."""

    formula = (
        "ttft = prefill work ahead + prefill_ms(prompt - cached, cached); "
        "tpot = decode_step_ms(decoding + 1, their context + prompt); "
        "headroom = sloBufferFactor · objective - prediction"
    )
    inputs = "ledger, prompt length, prefix match of the named producer, objectives of the request, latency model"

    def setup(self) -> None:
        self._key = latency_prediction_key(self.name)

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (self._key,)

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        match = prefix_match(state, self.params.prefix_match_info_producer_name)
        cached = cached_tokens(request, match, endpoints)
        cost, prompt = self.handle.cost, request.prompt_tokens
        own = {held: cost.prefill_ms(prompt - held, held) for held in set(cached)}
        predictions = {}
        for endpoint, held in zip(endpoints, cached, strict=True):
            load = self.handle.inflight.load(endpoint.id)
            ttft = load.prefill_ms + own[held]
            context = load.context_tokens * load.decoding / load.requests if load.requests else 0
            tpot = cost.decode_step_ms(load.decoding + 1, context + prompt)
            predictions[endpoint.slot] = self._with_headroom(request, ttft, tpot)
        state.write(self._key, predictions)

    def _with_headroom(self, request: InferenceRequest, ttft: float, tpot: float) -> LatencyPrediction:
        if request.slo_ttft_ms is None and request.slo_tpot_ms is None:
            return LatencyPrediction(ttft, tpot, -ttft, -tpot)
        factor = self.params.slo_buffer_factor
        return LatencyPrediction(
            ttft,
            tpot,
            0.0 if request.slo_ttft_ms is None else factor * request.slo_ttft_ms - ttft,
            0.0 if request.slo_tpot_ms is None else factor * request.slo_tpot_ms - tpot,
        )
