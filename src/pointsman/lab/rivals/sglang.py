"""SGLang router's ``cache_aware`` policy.

Source: the router's documentation, command line (0.3 / 64 / 1.5) and code:

1. imbalanced, if max - min > balanceAbsThreshold and max > balanceRelThreshold * min of the requests in flight: the
   endpoint with the fewest;
2. else, if the best match's share of the prompt exceeds cacheThreshold: that endpoint;
3. else the endpoint to which the fewest tokens were sent so far, what it had already not counted ("smallest tree").

The router's tree is of characters of the prompts that it sent, up to 2^26 of them per endpoint, and knows nothing of
evictions in the engines. Here it is the approximate producer with blocks of 16 tokens and as much room. Where several
endpoints hold the longest match the tree names one of them, by the order of a hash map: here any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult, ScoredEndpoint
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import EndpointObserver, Params, Picker, PickObserver, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.pickers._order import chosen_first
from pointsman.plugins.scorers._prefix import ProducerName, cached_tokens, prefix_match, required_producers


class CacheAwareParams(Params, frozen=True):
    """Parameters of ``sglang-cache-aware-picker``, named as in the router."""

    cache_threshold: Annotated[float, Meta(ge=0, le=1, description="Matched share above which the match decides.")] = (
        0.3
    )
    balance_abs_threshold: Annotated[int, Meta(ge=0, description="Difference of loads that is put up with.")] = 64
    balance_rel_threshold: Annotated[float, Meta(ge=1, description="Ratio of loads that is put up with.")] = 1.5
    max_tree_tokens: Annotated[int, Meta(ge=1, description="Tokens remembered per endpoint.")] = 1 << 24
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER


@register("sglang-cache-aware-picker")
class CacheAware(Picker[CacheAwareParams], PickObserver, EndpointObserver):
    """One gate for the whole fleet: affinity for all or for none."""

    formula = "imbalanced: fewest in flight; else match > cacheThreshold: best match; else fewest tokens ever sent"
    inputs = "ledger of work in flight, prefix match, own count of tokens sent"

    def setup(self) -> None:
        self._sent: Counter[EndpointId] = Counter()

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        params = self.params
        loads = [self.handle.inflight.load(candidate.endpoint.id).requests for candidate in candidates]
        most, least = max(loads), min(loads)
        if most - least > params.balance_abs_threshold and most > params.balance_rel_threshold * least:
            return chosen_first(candidates[loads.index(least)], candidates)
        match = prefix_match(state, params.prefix_match_info_producer_name)
        shares = [match.share(candidate.endpoint.slot) for candidate in candidates]
        best = max(shares)
        if best > params.cache_threshold:
            holders = [candidate for candidate, share in zip(candidates, shares, strict=True) if share == best]
            return chosen_first(self.handle.rng.choice(holders), candidates)
        return chosen_first(min(candidates, key=lambda candidate: self._sent[candidate.endpoint.id]), candidates)

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        if result.targets:
            chosen, match = result.chosen, prefix_match(state, self.params.prefix_match_info_producer_name)
            new = request.prompt_tokens - cached_tokens(request, match, [chosen])[0]
            self._sent[chosen.id] = min(self._sent[chosen.id] + new, self.params.max_tree_tokens)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._sent.pop(endpoint.id, None)
