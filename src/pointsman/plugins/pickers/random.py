"""Chooses at random, whatever the scores."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import Picker, register
from pointsman.framework.state import CycleState
from pointsman.plugins.pickers._llmd import PickerParams
from pointsman.plugins.pickers._order import chosen_first


class RandomParams(PickerParams, frozen=True):
    """Parameters of ``random-picker``."""


@register("random-picker")
class Random(Picker[RandomParams]):
    """Each candidate with the same chance; fallbacks by score."""

    formula = "any candidate, all alike"
    inputs = "nothing"

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        return chosen_first(self.handle.rng.choice(candidates), candidates) if candidates else []
