"""Chooses at random among the best few, which spreads bursts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import Params, Picker, register
from pointsman.framework.state import CycleState
from pointsman.plugins.pickers._order import chosen_first


class TopKParams(Params, frozen=True):
    """Parameters of ``top-k``."""

    top_k: Annotated[int, Meta(ge=1, description="Candidates to choose among; fewer when there are fewer.")] = 3
    mode: Annotated[
        Literal["uniform", "weighted"],
        Meta(
            description="uniform: each of the top K alike, however far apart. weighted: in proportion to the score "
            "(of costs, to one over the milliseconds), and only near the best (margin)."
        ),
    ] = "uniform"
    margin: Annotated[
        float,
        Meta(
            ge=0,
            description="weighted only: a candidate below the best by more than this share of the best total is never "
            "chosen. 0.1 of a best total of 135 points keeps those from 121.5 up; of 40 ms, those up to 44 ms.",
        ),
    ] = 0.1


@register("top-k")
class TopK(Picker[TopKParams]):
    """Sorts, cuts, draws. Among equals at the cut, chance decides who is in."""

    formula = "random among the topK best; weighted: only totals >= best - margin·|best|, in proportion to the total"
    inputs = "totals"

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        rng = self.handle.rng
        shuffled = rng.sample(candidates, len(candidates))
        top = sorted(shuffled, key=lambda candidate: -candidate.score)[: self.params.top_k]
        if self.params.mode == "uniform":
            return chosen_first(rng.choice(top), candidates)
        best = top[0].score
        near = [candidate for candidate in top if candidate.score >= best - self.params.margin * abs(best)]
        weights = [_weight(candidate.score) for candidate in near]
        # Totals of 0 weigh nothing: then the near ones are all alike.
        chosen = rng.choices(near, weights)[0] if any(weights) else rng.choice(near)
        return chosen_first(chosen, candidates)


def _weight(score: float) -> float:
    """A score counts as it is; a cost (below 0) by its inverse, so that half the milliseconds count double."""
    return score if score >= 0 else -1.0 / score
