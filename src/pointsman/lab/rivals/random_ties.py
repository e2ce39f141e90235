"""Picks the best; among equals any. llm-d's ``max-score-picker`` (shuffle, then stable sort) and Dynamo's at T = 0."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import Params, Picker, register
from pointsman.framework.state import CycleState
from pointsman.plugins.pickers._order import chosen_first


class RandomTiesParams(Params, frozen=True):
    """``random-ties-picker`` takes no parameters."""


@register("random-ties-picker")
class RandomTies(Picker[RandomTiesParams]):
    """Ours takes the least recently picked of equals, which would be a favour to routers that do not."""

    formula = "highest total; ties: any of them"
    inputs = "totals"

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        best = max(candidate.score for candidate in candidates)
        tied = [candidate for candidate in candidates if candidate.score == best]
        return chosen_first(self.handle.rng.choice(tied), candidates)
