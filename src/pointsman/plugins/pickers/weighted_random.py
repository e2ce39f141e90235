"""Chooses at random in proportion to the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import Picker, register
from pointsman.framework.state import CycleState
from pointsman.plugins.pickers._llmd import PickerParams
from pointsman.plugins.pickers._order import chosen_first


class WeightedRandomParams(PickerParams, frozen=True):
    """Parameters of ``weighted-random-picker``."""


@register("weighted-random-picker")
class WeightedRandom(Picker[WeightedRandomParams]):
    """Weighted sampling by A-Res (Efraimidis and Spirakis), as in llm-d.

    A total of 0 or less is chosen only when all are; then all are alike. So it is for costs, which are below 0.
    """

    formula = "largest U^(1/score), U uniform in (0, 1); all scores <= 0: uniform"
    inputs = "totals"

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        rng = self.handle.rng
        # The key's logarithm, as the key itself is 0 for every small score; 1 - U keeps it off log(0).
        keyed = [
            (math.log(1.0 - rng.random()) / candidate.score, candidate)
            for candidate in candidates
            if candidate.score > 0
        ]
        chosen = max(keyed, key=lambda pair: pair[0])[1] if keyed else rng.choice(candidates)
        return chosen_first(chosen, candidates)
