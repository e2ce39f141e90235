"""Takes out endpoints whose waiting queue is full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import gauges
from pointsman.framework.plugin import Filter, Params, register
from pointsman.framework.state import CycleState


class QueueDepthParams(Params, frozen=True):
    """Parameters of ``queue-depth``."""

    max_queue_length: Annotated[
        int,
        Meta(
            ge=1,
            description="Waiting requests at which an endpoint is full. A good value is 80 % of the engine's "
            "max_num_seqs (256 gives 200); lower spreads more, higher lets batches build up.",
        ),
    ] = 50


@register("queue-depth")
class QueueDepth(Filter[QueueDepthParams]):
    """Keeps endpoints with fewer waiting requests than ``maxQueueLength``.

    The scraped number is corrected by the picks since; without a fresh reading only our own picks count, so that an
    endpoint that is merely silent stays.
    """

    formula = "keep if waiting < maxQueueLength"
    inputs = "scraped waiting requests, corrected by the ledger"

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        limit, handle = self.params.max_queue_length, self.handle
        return [endpoint for endpoint in endpoints if gauges(endpoint, handle).waiting < limit]
