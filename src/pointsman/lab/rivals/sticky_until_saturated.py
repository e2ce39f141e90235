"""llm-d's "sticky until saturated": its ``prefix-cache-affinity-filter`` and ``token-load-scorer``.

Formulas as in llm-d's plugin READMEs. Work in flight is llm-d's ``inflight-load-producer``: uncached prompt tokens from
the pick to the first piece of the answer, at every endpoint; so every answer has to be looked at (``observeShare: 1``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RequestOutcome, SchedulingResult
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import (
    DataProducer,
    EndpointObserver,
    Filter,
    FirstTokenObserver,
    OutcomeObserver,
    Params,
    PickObserver,
    PluginSpec,
    Scorer,
    register,
)
from pointsman.framework.state import CycleState, StateKey
from pointsman.lab.rivals._bookkeeping import TokensUntilFirst
from pointsman.plugins.scorers._prefix import cached_tokens, prefix_match, required_producers

LOAD_PRODUCER = "token-load-producer"
_MATCH = prefix_match_key(APPROX_PREFIX_PRODUCER)
_TOKENS: StateKey[Mapping[int, int]] = StateKey(f"tokens-until-first/{LOAD_PRODUCER}")


class TokenLoadProducerParams(Params, frozen=True):
    """``token-load-producer`` takes no parameters."""


@register(LOAD_PRODUCER)
class TokenLoadProducer(
    DataProducer[TokenLoadProducerParams], PickObserver, FirstTokenObserver, OutcomeObserver, EndpointObserver
):
    """Counts by itself, as llm-d does; our ledger would also let prefills end by the clock."""

    formula = "uncached prompt tokens in flight whose first token was not seen, by endpoint"
    inputs = "own picks, first tokens, ends, approximate prefix match"

    def setup(self) -> None:
        self._tokens = TokensUntilFirst()

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(APPROX_PREFIX_PRODUCER)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (_MATCH,)

    def produces(self) -> tuple[StateKey[Mapping[int, int]], ...]:
        return (_TOKENS,)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        state.write(_TOKENS, {endpoint.slot: self._tokens.of(endpoint.id) for endpoint in endpoints})

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        if result.targets:
            chosen = result.chosen
            cached = cached_tokens(request, prefix_match(state, APPROX_PREFIX_PRODUCER), [chosen])[0]
            self._tokens.enter(request.id, chosen.id, request.prompt_tokens - cached)

    def first_token(self, request: InferenceRequest) -> None:
        self._tokens.leave(request.id)

    def ended(self, outcome: RequestOutcome) -> None:
        self._tokens.leave(outcome.request.id)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._tokens.forget(endpoint.id)


class StickyFilterParams(Params, frozen=True):
    """Parameters of ``sticky-until-saturated-filter``: those of llm-d's ``prefix-cache-affinity-filter``."""

    affinity_threshold: Annotated[float, Meta(ge=0, le=1, description="Cached share from which a pod is sticky.")] = 0.8
    max_ttft_penalty_ms: Annotated[
        float,
        Meta(
            ge=0, description="Longer wait at the best sticky pod than at the best other that is put up with; 0: any."
        ),
    ] = 18_000.0
    peak_prefill_throughput: Annotated[float, Meta(gt=0, description="Prompt tokens per second of one pod.")] = 15_928.0


@register("sticky-until-saturated-filter")
class StickyFilter(Filter[StickyFilterParams]):
    """Without exploration, whose probability is 0 by default in llm-d too."""

    formula = (
        "keep pods with a cached share >= affinityThreshold, unless the least wait among them (tokens in flight / "
        "peakPrefillThroughput) exceeds the least among the others by more than maxTtftPenaltyMs; none: keep all"
    )
    inputs = "approximate prefix match, token-load-producer"

    def requires(self) -> tuple[PluginSpec, ...]:
        return (*required_producers(APPROX_PREFIX_PRODUCER), PluginSpec(LOAD_PRODUCER, LOAD_PRODUCER))

    def consumes(self) -> tuple[StateKey[PrefixMatch] | StateKey[Mapping[int, int]], ...]:
        return (_MATCH, _TOKENS)

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        match, params = prefix_match(state, APPROX_PREFIX_PRODUCER), self.params
        sticky = [endpoint for endpoint in endpoints if match.share(endpoint.slot) >= params.affinity_threshold]
        if not sticky or len(sticky) == len(endpoints):
            return endpoints
        tokens = state.read(_TOKENS)
        others = [endpoint for endpoint in endpoints if match.share(endpoint.slot) < params.affinity_threshold]
        behind = min(tokens[e.slot] for e in sticky) - min(tokens[e.slot] for e in others)
        penalty = behind / params.peak_prefill_throughput * 1000
        return endpoints if params.max_ttft_penalty_ms and penalty > params.max_ttft_penalty_ms else sticky


class TokenLoadParams(Params, frozen=True):
    """Parameters of ``until-first-token-load-scorer``: llm-d's ``token-load-scorer``."""

    queue_threshold_tokens: Annotated[int, Meta(ge=1, description="Tokens at which the score reaches 0.")] = 4_194_304


@register("until-first-token-load-scorer")
class TokenLoad(Scorer[TokenLoadParams]):
    """Tokens of this request that are cached there do not count."""

    formula = "1 - min(1, (tokens in flight + uncached tokens of this request) / queueThresholdTokens)"
    inputs = "approximate prefix match, token-load-producer"

    def requires(self) -> tuple[PluginSpec, ...]:
        return (*required_producers(APPROX_PREFIX_PRODUCER), PluginSpec(LOAD_PRODUCER, LOAD_PRODUCER))

    def consumes(self) -> tuple[StateKey[PrefixMatch] | StateKey[Mapping[int, int]], ...]:
        return (_MATCH, _TOKENS)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        tokens = state.read(_TOKENS)
        cached = cached_tokens(request, prefix_match(state, APPROX_PREFIX_PRODUCER), endpoints)
        limit = self.params.queue_threshold_tokens
        return [
            1.0 - min(1.0, (tokens[endpoint.slot] + request.prompt_tokens - held) / limit)
            for endpoint, held in zip(endpoints, cached, strict=True)
        ]
