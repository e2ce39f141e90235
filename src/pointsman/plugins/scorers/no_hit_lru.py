"""llm-d's spreading of cold requests: the endpoint that took one longest ago comes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import EndpointObserver, Params, PickObserver, PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.scorers._prefix import ProducerName, prefix_match, required_producers


class NoHitLruParams(Params, frozen=True):
    """Parameters of ``no-hit-lru-scorer``, as in llm-d."""

    lru_size: Annotated[int, Meta(ge=1, description="Endpoints whose last cold request is remembered.")] = 1024
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER


@register("no-hit-lru-scorer")
class NoHitLru(Scorer[NoHitLruParams], PickObserver, EndpointObserver):
    """Says nothing (0.5 for all) as soon as one candidate has a piece of the prompt.

    Rank 0 is the first endpoint that never took a cold request, then come the others of its kind, then the rest from
    the longest ago to the latest.
    """

    formula = "0.5 for all if any candidate has a hit, else 1 - rank / (candidates - 1)"
    inputs = "prefix match of the named producer, own memory of cold picks"

    def setup(self) -> None:
        self._cold_picks: OrderedDict[EndpointId, None] = OrderedDict()  # oldest first

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        if not self._is_cold(endpoints, state):
            return [0.5] * len(endpoints)
        if len(endpoints) == 1:
            return [1.0]
        age = {endpoint: age for age, endpoint in enumerate(self._cold_picks)}
        by_rank = sorted(range(len(endpoints)), key=lambda position: age.get(endpoints[position].id, -1))
        scores = [0.0] * len(endpoints)
        for rank, position in enumerate(by_rank):
            scores[position] = 1.0 - rank / (len(endpoints) - 1)
        return scores

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        if not result.targets:
            return
        prefill = result.stages.get("prefill")
        runs = [result.profiles[name] for name in (result.primary, prefill) if name is not None]
        cold = [
            run.targets[0].id
            for run in runs
            if self._is_cold([scored.endpoint for scored in run.candidates] or run.targets, state)
        ]
        for chosen in cold:
            self._cold_picks[chosen] = None
            self._cold_picks.move_to_end(chosen)
            if len(self._cold_picks) > self.params.lru_size:
                self._cold_picks.popitem(last=False)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._cold_picks.pop(endpoint.id, None)

    def _is_cold(self, endpoints: Sequence[Endpoint], state: CycleState) -> bool:
        match = prefix_match(state, self.params.prefix_match_info_producer_name)
        return not any(match.of(endpoint.slot) for endpoint in endpoints)
