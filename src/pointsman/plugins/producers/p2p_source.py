"""Names the endpoint from which the one that computes may fetch KV blocks instead of computing them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.gauges import gauges
from pointsman.framework.plugin import DataProducer, Params, PluginSpec, RequestHeaders, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.kvcache.blocks import chain_seed
from pointsman.plugins._best_match import best_match, match_consumed, match_producers

SOURCE_HEADER = "x-kv-cache-source-host-port"
_HASHES = 2**64


class P2pSourceParams(Params, frozen=True):
    """Parameters of ``p2p-source-producer``, as in llm-d."""

    prefix_match_info_producer_name: Annotated[
        str,
        Meta(description="Name of the producer whose prefix match is read; default the best one that is configured."),
    ] = ""
    min_cached_token_delta: Annotated[
        int, Meta(ge=1, description="Prompt tokens that the source must hold beyond the endpoint that computes.")
    ] = 1
    prefill_profile_name: Annotated[
        str, Meta(description="Accepted for llm-d's sake, without effect: the profile handler says who prefills.")
    ] = "prefill"


@register("p2p-source-producer")
class P2pSourceProducer(DataProducer[P2pSourceParams], RequestHeaders):
    """Among the endpoints that hold most, one by chance, less likely the more requests wait there.

    The chance hangs on the request's id alone, so that the same question has the same answer. The endpoint that
    computes is the one that prefills if there is one, else the chosen one.
    """

    formula = (
        f"{SOURCE_HEADER}: the endpoint with the longest match, if longer by minCachedTokenDelta; "
        "ties weighted by 1 / (1 + waiting)"
    )
    inputs = "prefix match, waiting requests (corrected by the ledger), request id"

    def setup(self) -> None:
        self._key: StateKey[Endpoint] = StateKey(f"p2p-source/{self.name}")

    def requires(self) -> tuple[PluginSpec, ...]:
        return match_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return match_consumed(self.params.prefix_match_info_producer_name)

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (self._key,)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        match = best_match(state, self.params.prefix_match_info_producer_name)
        most = max((match.of(endpoint.slot) for endpoint in endpoints), default=0)
        if not most:
            return
        holders = [endpoint for endpoint in endpoints if match.of(endpoint.slot) == most]
        weights = [1.0 / (1 + gauges(endpoint, self.handle).waiting) for endpoint in holders]
        bounds = list(accumulate(weights))
        drawn = chain_seed(request.id) / _HASHES * bounds[-1]
        state.write(self._key, holders[min(bisect_right(bounds, drawn), len(holders) - 1)])

    def request_headers(
        self, request: InferenceRequest, result: SchedulingResult, state: CycleState
    ) -> Mapping[str, str]:
        source, computes = state.get(self._key), result.prefiller or result.chosen
        if source is None or source.id == computes.id:
            return {}
        match = best_match(state, self.params.prefix_match_info_producer_name)
        more = match.tokens(source.slot) - match.tokens(computes.slot)
        return {SOURCE_HEADER: source.hostport} if more >= self.params.min_cached_token_delta else {}
