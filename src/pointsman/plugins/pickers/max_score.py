"""Chooses the best; among equals the one picked longest ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import Picker, register
from pointsman.framework.state import CycleState
from pointsman.plugins.pickers._llmd import PickerParams
from pointsman.plugins.pickers._order import chosen_first

_ROUNDING = 1e-9  # sums of equal terms in another order differ by this much at most


class MaxScoreParams(PickerParams, frozen=True):
    """Parameters of ``max-score-picker``."""

    tie_tolerance: Annotated[
        float,
        Meta(ge=0, description="Totals (points or ms) that lie no more than this below the best count as equal to it."),
    ] = 0.0


@register("max-score-picker")
class MaxScore(Picker[MaxScoreParams]):
    """llm-d breaks ties at random; least recently picked spreads a burst evenly and repeats exactly."""

    formula = "highest total; ties: least recently picked, then lowest slot"
    inputs = "totals, ledger (when each endpoint was last picked)"

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        best = max(candidate.score for candidate in candidates)
        floor = best - max(self.params.tie_tolerance, _ROUNDING * abs(best))
        tied = [candidate for candidate in candidates if candidate.score >= floor]
        return chosen_first(min(tied, key=self._last_picked), candidates)

    def _last_picked(self, candidate: ScoredEndpoint) -> tuple[int, int]:
        endpoint = candidate.endpoint
        return self.handle.inflight.load(endpoint.id).last_picked, endpoint.slot
