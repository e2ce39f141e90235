"""llm-d's rating of endpoints by free KV cache."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import kv_usage
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState


class KvCacheUtilizationParams(Params, frozen=True):
    """``kv-cache-utilization-scorer`` takes no parameters."""


@register("kv-cache-utilization-scorer")
class KvCacheUtilization(Scorer[KvCacheUtilizationParams]):
    """The free share of the KV cache; an endpoint never scraped and never picked counts as empty."""

    formula = "1 - kvUsage"
    inputs = "scraped KV-cache utilisation, corrected by the ledger; the ledger alone without a fresh reading"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return [1.0 - kv_usage(endpoint, self.handle) for endpoint in endpoints]
