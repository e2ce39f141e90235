"""llm-d's rating of endpoints by waiting requests."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import gauges
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState
from pointsman.plugins.scorers._minmax import fewest_best


class QueueParams(Params, frozen=True):
    """``queue-scorer`` takes no parameters."""


@register("queue-scorer")
class Queue(Scorer[QueueParams]):
    """Relative to the candidates: one request of difference counts as much as a hundred."""

    formula = "(max - waiting) / (max - min) over the candidates; 1 for all when equal"
    inputs = "scraped waiting requests, corrected by the ledger; the ledger alone without a fresh reading"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return fewest_best([gauges(endpoint, self.handle).waiting for endpoint in endpoints])
