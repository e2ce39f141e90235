"""Prefill elsewhere when much of the prompt is left to compute at the endpoint that decodes."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins._best_match import best_match, match_consumed, match_producers
from pointsman.plugins.deciders._decider import StageDecider


class PrefixBasedPdParams(Params, frozen=True):
    """Parameters of ``prefix-based-pd-decider``: llm-d's, and the producer's name."""

    non_cached_tokens: Annotated[
        int,
        Meta(ge=0, description="Prompt tokens that the decoding endpoint must lack for it to be worth it; 0 never."),
    ] = 0
    prompt_tokens: Annotated[
        int, Meta(ge=0, description="Prompts shorter than that are never prefilled elsewhere; 0 for no such bound.")
    ] = 0
    prefix_match_info_producer_name: Annotated[
        str,
        Meta(description="Name of the producer whose prefix match is read; default the best one that is configured."),
    ] = ""


@register("prefix-based-pd-decider")
class PrefixBasedPd(StageDecider[PrefixBasedPdParams]):
    """Counts what the decoding endpoint holds in full, whatever tier it is in: none of it need be computed again.

    Nothing known of its cache counts as nothing cached.
    """

    formula = "prompt tokens >= promptTokens and prompt tokens - cached tokens >= nonCachedTokens > 0"
    inputs = "prompt length, prefix match at the endpoint that decodes"

    def requires(self) -> tuple[PluginSpec, ...]:
        return match_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        return match_consumed(self.params.prefix_match_info_producer_name)

    def wanted(self, request: InferenceRequest, decode: Endpoint | None, state: CycleState) -> bool:
        least, prompt = self.params.non_cached_tokens, request.prompt_tokens
        if least == 0 or decode is None or prompt < max(least, self.params.prompt_tokens):
            return False
        match = best_match(state, self.params.prefix_match_info_producer_name)
        return prompt - match.tokens(decode.slot) >= least
