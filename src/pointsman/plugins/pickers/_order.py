from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.result import ScoredEndpoint


def best_first(candidates: Sequence[ScoredEndpoint]) -> list[ScoredEndpoint]:
    """By score, best first; equal scores by slot, so that the order does not hang on the input's."""
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.endpoint.slot))


def chosen_first(chosen: ScoredEndpoint, candidates: Sequence[ScoredEndpoint]) -> list[ScoredEndpoint]:
    """The destination, then all others by score as fallbacks."""
    return [chosen, *(candidate for candidate in best_first(candidates) if candidate is not chosen)]
