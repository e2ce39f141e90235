"""llm-d's rating of endpoints by requests in flight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import INFLIGHT_PRODUCER
from pointsman.framework.plugin import Params, PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.producers.inflight_load import InflightSnapshot, inflight_key


class ActiveRequestParams(Params, frozen=True):
    """Parameters of ``active-request-scorer``, as in llm-d."""

    idle_threshold: Annotated[int, Meta(ge=0, description="Requests in flight up to which an endpoint is idle.")] = 0
    max_busy_score: Annotated[
        float, Meta(ge=0, le=1, description="Bound on the score of an endpoint that is not idle.")
    ] = 1.0


@register("active-request-scorer")
class ActiveRequest(Scorer[ActiveRequestParams]):
    """Relative to the busiest candidate."""

    formula = "1 if requests <= idleThreshold, else (max - requests) / max · maxBusyScore"
    inputs = "requests in flight, from inflight-load-producer"

    def requires(self) -> tuple[PluginSpec, ...]:
        return (PluginSpec(type=INFLIGHT_PRODUCER, name=INFLIGHT_PRODUCER),)

    def consumes(self) -> tuple[StateKey[InflightSnapshot], ...]:
        return (inflight_key(),)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        requests = state.read(inflight_key()).requests
        counts = [requests.get(endpoint.slot, 0) for endpoint in endpoints]
        idle, most = self.params.idle_threshold, max(counts, default=0)
        return [1.0 if count <= idle else (most - count) / most * self.params.max_busy_score for count in counts]
