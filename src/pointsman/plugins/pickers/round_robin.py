"""Chooses in turn, whatever the scores."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import EndpointObserver, Picker, register
from pointsman.framework.state import CycleState
from pointsman.plugins.pickers._llmd import PickerParams
from pointsman.plugins.pickers._order import chosen_first


class RoundRobinParams(PickerParams, frozen=True):
    """Parameters of ``round-robin-picker``."""


@register("round-robin-picker")
class RoundRobin(Picker[RoundRobinParams], EndpointObserver):
    """The candidate whose turn was longest ago; never had one comes first, in the order given.

    Of k candidates each gets exactly every k-th request. One cursor over all endpoints would not do that: requests for
    two models that take turns would each move the other's.
    """

    formula = "the candidate that was chosen longest ago by this picker"
    inputs = "own picks"

    def setup(self) -> None:
        self._turn = 0
        self._last: dict[EndpointId, int] = {}

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        chosen = min(candidates, key=lambda candidate: self._last.get(candidate.endpoint.id, 0))
        self._turn += 1
        self._last[chosen.endpoint.id] = self._turn
        return chosen_first(chosen, candidates)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._last.pop(endpoint.id, None)
