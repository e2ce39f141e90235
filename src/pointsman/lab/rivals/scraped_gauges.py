"""llm-d's ``queue-scorer`` and ``kv-cache-utilization-scorer`` as they are there: on the last reading, as it is.

Ours of the same names add to a reading what the picker itself has sent since, which llm-d does not; with ours a burst
between two readings spreads, with llm-d's it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState
from pointsman.plugins.scorers._minmax import fewest_best


class ScrapedQueueParams(Params, frozen=True):
    """``scraped-queue-scorer`` takes no parameters."""


@register("scraped-queue-scorer")
class ScrapedQueue(Scorer[ScrapedQueueParams]):
    """Waiting requests, relative to the candidates."""

    formula = "(max - waiting) / (max - min) over the candidates; 1 for all when equal"
    inputs = "scraped waiting requests, uncorrected"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return fewest_best([endpoint.metrics.waiting for endpoint in endpoints])


class ScrapedKvParams(Params, frozen=True):
    """``scraped-kv-scorer`` takes no parameters."""


@register("scraped-kv-scorer")
class ScrapedKv(Scorer[ScrapedKvParams]):
    """Free share of the KV cache."""

    formula = "1 - used share of the KV cache"
    inputs = "scraped KV-cache utilisation, uncorrected"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return [1.0 - endpoint.metrics.kv_usage for endpoint in endpoints]
