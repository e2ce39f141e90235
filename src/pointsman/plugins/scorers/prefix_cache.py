"""llm-d's rating of endpoints by cached prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import Params, PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.scorers._prefix import ProducerName, prefix_match, required_producers


class PrefixCacheParams(Params, frozen=True):
    """Parameters of ``prefix-cache-scorer``, as in llm-d."""

    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER
    match_length_weight: Annotated[
        float, Meta(ge=0, le=1, description="Weight of the match's length against its share of the prompt.")
    ] = 0.0
    match_length_scale_tokens: Annotated[
        int, Meta(ge=1, description="Matched tokens at which the length part reaches 1.")
    ] = 8192


@register("prefix-cache-scorer")
class PrefixCache(Scorer[PrefixCacheParams]):
    """Share of the prompt that is cached, mixed with the square of the cached length when weighted so."""

    formula = (
        "w·min(1, matched tokens / matchLengthScaleTokens)² + (1 - w)·matched blocks / total blocks, "
        "w = matchLengthWeight; blocks and tokens in slower tiers by their weight"
    )
    inputs = "prefix match of the named producer"

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        match = prefix_match(state, self.params.prefix_match_info_producer_name)
        weight, scale = self.params.match_length_weight, self.params.match_length_scale_tokens
        if not weight:
            return [match.share(endpoint.slot) for endpoint in endpoints]
        size = match.block_tokens
        return [
            weight * min(1.0, match.worth_of(endpoint.slot) * size / scale) ** 2
            + (1.0 - weight) * match.share(endpoint.slot)
            for endpoint in endpoints
        ]
