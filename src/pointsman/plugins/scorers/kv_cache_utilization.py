"""llm-d's rating of endpoints by free KV cache."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState


class KvCacheUtilizationParams(Params, frozen=True):
    """``kv-cache-utilization-scorer`` takes no parameters."""


@register("kv-cache-utilization-scorer")
class KvCacheUtilization(Scorer[KvCacheUtilizationParams]):
    """The free share of the KV cache; an endpoint never scraped counts as empty."""

    formula = "1 - kvUsage"
    inputs = "scraped KV-cache utilisation"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return [1.0 - endpoint.metrics.kv_usage for endpoint in endpoints]
