"""Dynamo's KV router (1.6), and the product form that it offers as ``router_selection_policy=lmetric``.

Source: Dynamo's router documentation and its scheduler: with blocks of the engine's size,

    prefill = (prompt tokens in flight without first token, each less what was cached + this prompt) / block
    adjusted = max(0, prefill - overlapScoreCredit * blocks cached there)
    decode = blocks of the prompts in flight there, each counted once, this prompt included
    linear: prefillLoadScale * adjusted + decode          product: adjusted * (decode + 1)

and the least wins, equals at random. Load is the router's own count: blocks from the pick to the end, prefill tokens
from the pick to the first token. Left at their defaults there, and so left out here: credits of slower tiers, credit
decay, weight of active requests, temperature, output blocks, queueing, predict-on-route.

Where the engines' events say nothing of a prompt, blocks are those of the approximate producer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RequestOutcome, SchedulingResult
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PRECISE_PREFIX_PRODUCER, prefix_match_key
from pointsman.framework.kv import KvMatch
from pointsman.framework.plugin import (
    EndpointObserver,
    FirstTokenObserver,
    OutcomeObserver,
    Params,
    PickObserver,
    PluginSpec,
    Scorer,
    register,
)
from pointsman.framework.state import CycleState, StateKey
from pointsman.lab.rivals._bookkeeping import ActiveBlocks, TokensUntilFirst
from pointsman.plugins.scorers._prefix import cached_tokens, prefix_match

_MATCH = prefix_match_key(PRECISE_PREFIX_PRODUCER)
_FOUND: StateKey[KvMatch] = StateKey(f"kv-match/{PRECISE_PREFIX_PRODUCER}")
_GUESSED: StateKey[Sequence[int]] = StateKey(f"prefix-block-keys/{APPROX_PREFIX_PRODUCER}")


class DynamoCostParams(Params, frozen=True):
    """Parameters of ``dynamo-cost-scorer``, named as in Dynamo."""

    overlap_score_credit: Annotated[float, Meta(ge=0, description="Blocks of prefill saved per cached block.")] = 1.0
    prefill_load_scale: Annotated[float, Meta(ge=0, description="Weight of prefill blocks; of linear alone.")] = 1.0
    selection_policy: Annotated[
        Literal["linear", "lmetric"], Meta(description="linear: weighted sum. lmetric: product.")
    ] = "linear"


@register("dynamo-cost-scorer")
class DynamoCost(Scorer[DynamoCostParams], PickObserver, FirstTokenObserver, OutcomeObserver, EndpointObserver):
    """A cost in blocks is none in milliseconds, so it is a score: 1 / (1 + cost) has the same order."""

    formula = "1 / (1 + prefillLoadScale · max(0, prefill - credit · cached) + decode), in blocks; or of the product"
    inputs = "prefix match by KV events, own count of blocks and of prefill tokens in flight"

    def setup(self) -> None:
        self._prefill = TokensUntilFirst()
        self._active = ActiveBlocks()

    def requires(self) -> tuple[PluginSpec, ...]:
        return (PluginSpec(PRECISE_PREFIX_PRODUCER, PRECISE_PREFIX_PRODUCER),)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return (_MATCH, _GUESSED)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        match, params = prefix_match(state, PRECISE_PREFIX_PRODUCER), self.params
        keys = _keys(state, match.block_tokens)
        scores = []
        for endpoint in endpoints:
            waiting = self._prefill.of(endpoint.id) + request.prompt_tokens
            cached = match.of(endpoint.slot) * params.overlap_score_credit
            adjusted = max(0.0, waiting / match.block_tokens - cached)
            decode = self._active.with_prompt(endpoint.id, keys)
            linear = params.selection_policy == "linear"
            cost = params.prefill_load_scale * adjusted + decode if linear else adjusted * (decode + 1)
            scores.append(1.0 / (1.0 + cost))
        return scores

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        if not result.targets:
            return
        chosen, match = result.chosen, prefix_match(state, PRECISE_PREFIX_PRODUCER)
        uncached = request.prompt_tokens - cached_tokens(request, match, [chosen])[0]
        self._prefill.enter(request.id, chosen.id, uncached)
        self._active.enter(request.id, chosen.id, _keys(state, match.block_tokens))

    def first_token(self, request: InferenceRequest) -> None:
        self._prefill.leave(request.id)

    def ended(self, outcome: RequestOutcome) -> None:
        self._prefill.leave(outcome.request.id)
        self._active.leave(outcome.request.id)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._prefill.forget(endpoint.id)
        self._active.forget(endpoint.id)


def _keys(state: CycleState, block_tokens: int) -> Sequence[int]:
    """Keys of the prompt's full blocks, of the size in which the match counts."""
    found = state.get(_FOUND)
    exact = found.keys.get(block_tokens) if found is not None else None
    return exact if exact is not None else state.get(_GUESSED, [])
