"""Cost: prefill of the part of the prompt that an endpoint does not hold."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import CostScorer, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.scorers._prefix import ProducerName, cached_tokens, prefix_match, required_producers


class UncachedPrefillCostParams(Params, frozen=True):
    """Parameters of ``uncached-prefill-cost``."""

    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER


@register("uncached-prefill-cost")
class UncachedPrefillCost(CostScorer[UncachedPrefillCostParams]):
    """What the request itself will cost there; without a known prefix, the whole prompt."""

    formula = "prefill_ms(prompt tokens - cached, cached), by the latency model; times the pod's pace if it stands out"
    inputs = "prompt length, prefix match of the named producer"

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        match = prefix_match(state, self.params.prefix_match_info_producer_name)
        cached = cached_tokens(request, match, endpoints)
        # Most endpoints hold the same, usually nothing: each amount is worked out once.
        prefill, prompt = self.handle.cost.prefill_ms, request.prompt_tokens
        cost = {tokens: prefill(prompt - tokens, tokens) for tokens in set(cached)}
        paces = self.handle.paces
        if paces:
            return [
                cost[tokens] * paces.get(endpoint.id, 1.0) for tokens, endpoint in zip(cached, endpoints, strict=True)
            ]
        return [cost[tokens] for tokens in cached]
