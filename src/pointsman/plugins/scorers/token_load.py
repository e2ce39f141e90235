"""llm-d's rating of endpoints by prompt tokens in flight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, INFLIGHT_PRODUCER, prefix_match_key
from pointsman.framework.plugin import Params, PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.producers.inflight_load import InflightProducerName, inflight_key, required_inflight
from pointsman.plugins.scorers._prefix import ProducerName, cached_tokens, prefix_match, required_producers


class TokenLoadParams(Params, frozen=True):
    """Parameters of ``token-load-scorer``: llm-d's, and ``prefixMatchInfoProducerName`` of ours."""

    queue_threshold_tokens: Annotated[
        int, Meta(ge=1, description="Tokens at which the score reaches 0: 128 requests of 32K by default.")
    ] = 4_194_304
    in_flight_load_producer_name: InflightProducerName = INFLIGHT_PRODUCER
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER


@register("token-load-scorer")
class TokenLoad(Scorer[TokenLoadParams]):
    """What is waiting for prefill there, and what this request would add to it."""

    formula = "1 - min(1, (tokens in flight + uncached tokens of this request) / queueThresholdTokens)"
    inputs = "uncached prompt tokens in flight, prompt length, prefix match of the named producer"

    def requires(self) -> tuple[PluginSpec, ...]:
        match = required_producers(self.params.prefix_match_info_producer_name)
        return required_inflight(self.params.in_flight_load_producer_name) + match

    def consumes(self) -> tuple[StateKey[Any], ...]:
        match = prefix_match_key(self.params.prefix_match_info_producer_name)
        return (inflight_key(self.params.in_flight_load_producer_name), match)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        tokens = state.read(inflight_key(self.params.in_flight_load_producer_name)).tokens
        match = prefix_match(state, self.params.prefix_match_info_producer_name)
        cached, prompt = cached_tokens(request, match, endpoints), request.prompt_tokens
        most = self.params.queue_threshold_tokens
        return [
            1.0 - min(1.0, (tokens.get(endpoint.slot, 0) + prompt - held) / most)
            for endpoint, held in zip(endpoints, cached, strict=True)
        ]
