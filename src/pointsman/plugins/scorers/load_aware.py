"""Rates endpoints by their queue and their active requests against a fixed capacity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import gauges
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState


class LoadAwareParams(Params, frozen=True):
    """Parameters of ``load-aware``.

    Raises:
        ValueError: if both weights are 0.
    """

    queue_weight_factor: Annotated[
        float, Meta(ge=0, description="Weight of the queue part; only the ratio counts.")
    ] = 0.7
    active_requests_weight: Annotated[
        float, Meta(ge=0, description="Weight of the active-requests part; 0 leaves the queue alone.")
    ] = 0.3
    capacity: Annotated[int, Meta(ge=1, description="Requests at which either part reaches 0.")] = 50

    def __post_init__(self) -> None:
        if self.queue_weight_factor + self.active_requests_weight <= 0:
            raise ValueError("queueWeightFactor and activeRequestsWeight are both 0")


@register("load-aware")
class LoadAware(Scorer[LoadAwareParams]):
    """Straight lines from 1 when idle to 0 at capacity.

    At weight 50 and with as many requests active as waiting, 0, 10, 25, 40 and 50 of them give 50, 40, 25, 10 and 0
    points; the queue part alone does so whatever is active. Active requests are the larger of our ledger (own picks
    only) and the scraped running requests (everyone's). What was scraped is corrected by the picks and ends since;
    without a fresh reading the ledger alone counts.
    """

    formula = (
        "(q·(1 - min(waiting, capacity)/capacity) + a·(1 - min(active, capacity)/capacity)) / (q + a), "
        "q = queueWeightFactor, a = activeRequestsWeight"
    )
    inputs = "scraped waiting and running requests, ledger of work in flight"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return [self._free(endpoint) for endpoint in endpoints]

    def _free(self, endpoint: Endpoint) -> float:
        params = self.params
        capacity, queue, active = params.capacity, params.queue_weight_factor, params.active_requests_weight
        now = gauges(endpoint, self.handle)
        busy = max(self.handle.inflight.load(endpoint.id).requests, now.running)
        queue_free = 1.0 - min(now.waiting, capacity) / capacity
        active_free = 1.0 - min(busy, capacity) / capacity
        return (queue * queue_free + active * active_free) / (queue + active)
