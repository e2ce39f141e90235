"""llm-d's older scorer with an index of its own: the longest match of all scores 1."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import PRECISE_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.producers.precise_prefix_cache import PrecisePrefixCacheParams
from pointsman.plugins.scorers._prefix import prefix_match


class PrecisePrefixCacheScorerParams(PrecisePrefixCacheParams, frozen=True):
    """Parameters of ``precise-prefix-cache-scorer``: those of precise-prefix-cache-producer, which it brings along."""


@register("precise-prefix-cache-scorer")
class PrecisePrefixCacheScorer(Scorer[PrecisePrefixCacheScorerParams]):
    """A prefix scorer that brings precise-prefix-cache-producer along; one configured beside it is used as it is."""

    formula = "matched blocks / most matched blocks of the candidates; 0 for all without a match"
    inputs = "prefix match of precise-prefix-cache-producer"

    def requires(self) -> tuple[PluginSpec, ...]:
        parameters = msgspec.json.decode(msgspec.json.encode(self.params))
        return (PluginSpec(PRECISE_PREFIX_PRODUCER, PRECISE_PREFIX_PRODUCER, parameters),)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(PRECISE_PREFIX_PRODUCER),)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        match = prefix_match(state, PRECISE_PREFIX_PRODUCER)
        worth = [match.worth_of(endpoint.slot) for endpoint in endpoints]
        most = max(worth, default=0)
        return [value / most for value in worth] if most else [0.0] * len(worth)
