"""Power of two choices: two candidates at random, and of them the one with fewer requests in flight."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import Params, Picker, register
from pointsman.framework.state import CycleState
from pointsman.plugins.pickers._order import chosen_first


class PowerOfTwoParams(Params, frozen=True):
    """``power-of-two-picker`` takes no parameters."""


@register("power-of-two-picker")
class PowerOfTwo(Picker[PowerOfTwoParams]):
    """By the picker's own count, as SGLang's and AIBrix's routers do; equals: the first drawn."""

    formula = "the one with fewer requests in flight of two different candidates drawn at random"
    inputs = "ledger of work in flight"

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        drawn = self.handle.rng.sample(list(candidates), min(2, len(candidates)))
        if not drawn:
            return []
        chosen = min(drawn, key=lambda scored: self.handle.inflight.load(scored.endpoint.id).requests)
        return chosen_first(chosen, candidates)
