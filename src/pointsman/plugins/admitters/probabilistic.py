"""Refuses a growing share of sheddable requests as the pool fills up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.errors import AdmissionDeniedError
from pointsman.framework.gauges import gauges, kv_usage
from pointsman.framework.plugin import Admitter, Params, register
from pointsman.framework.state import CycleState


class ProbabilisticParams(Params, frozen=True):
    """Parameters of ``probabilistic-admitter``, as in llm-d."""

    queue_depth_threshold: Annotated[
        float, Meta(gt=0, description="Waiting requests at which an endpoint counts as full.")
    ] = 5
    kv_cache_util_threshold: Annotated[
        float, Meta(gt=0, le=1, description="Used share of the KV cache at which an endpoint counts as full.")
    ] = msgspec.field(name="kvCacheUtilThreshold", default=0.8)
    power: Annotated[
        float, Meta(gt=0, description="Steepness: larger values refuse nothing for longer, then much at once.")
    ] = 5.0
    k: Annotated[
        float, Meta(gt=0, description="Everything sheddable is refused from a saturation of (1/k)^(1/power) on: 0.32.")
    ] = 300.0


@register("probabilistic-admitter")
class ProbabilisticAdmitter(Admitter[ProbabilisticParams]):
    """Refuses by chance, and never a request of priority 0 or more.

    Stale gauges give way to the ledger, so that silence of the engines refuses nobody; llm-d counts it as full.
    """

    formula = (
        "refuse (429) if priority < 0, with probability min(1, k·s^power), where s = mean over endpoints of "
        "max(waiting / queueDepthThreshold, kvUsage / kvCacheUtilThreshold)"
    )
    inputs = "priority, gauges corrected by the ledger, randomness"

    def admit(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        if request.priority >= 0 or not endpoints:
            return
        saturation = sum(map(self._fullness, endpoints)) / len(endpoints)
        probability = min(1.0, self.params.k * saturation**self.params.power)
        if self.handle.rng.random() < probability:
            raise AdmissionDeniedError("the pool is busy and this request is sheddable")

    def _fullness(self, endpoint: Endpoint) -> float:
        queue = gauges(endpoint, self.handle).waiting / self.params.queue_depth_threshold
        return max(queue, kv_usage(endpoint, self.handle) / self.params.kv_cache_util_threshold)
