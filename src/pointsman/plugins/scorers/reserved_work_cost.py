"""Cost: prefill work handed to an endpoint and still ahead of a new request."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import CostScorer, Params, register
from pointsman.framework.state import CycleState


class ReservedWorkCostParams(Params, frozen=True):
    """``reserved-work-cost`` takes no parameters."""


@register("reserved-work-cost")
class ReservedWorkCost(CostScorer[ReservedWorkCostParams]):
    """Work is entered at the pick, not at the next scrape, so a burst does not pile up on one endpoint."""

    formula = "sum of estimated prefill ms of requests in flight without first token, less what ran since"
    inputs = "ledger of work in flight"

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return [self.handle.inflight.load(endpoint.id).prefill_ms for endpoint in endpoints]
