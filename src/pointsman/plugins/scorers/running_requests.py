"""llm-d's rating of endpoints by running requests."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import gauges
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState
from pointsman.plugins.scorers._minmax import fewest_best


class RunningRequestsParams(Params, frozen=True):
    """``running-requests-size-scorer`` takes no parameters."""


@register("running-requests-size-scorer")
class RunningRequests(Scorer[RunningRequestsParams]):
    """Relative to the candidates, like ``queue-scorer``."""

    formula = "(max - running) / (max - min) over the candidates; 1 for all when equal"
    inputs = "scraped running requests, corrected by the ledger; the ledger alone without a fresh reading"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return fewest_best([gauges(endpoint, self.handle).running for endpoint in endpoints])
