"""llm-d's rating of endpoints by queue against a fixed threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import gauges
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState


class LoadAwareScorerParams(Params, frozen=True):
    """Parameters of ``load-aware-scorer``, as in llm-d."""

    threshold: Annotated[int, Meta(ge=1, description="Waiting requests at which the score reaches 0.")] = 128


@register("load-aware-scorer")
class LoadAwareScorer(Scorer[LoadAwareScorerParams]):
    """llm-d's own. It never exceeds 0.5 and does not see running requests; ``load-aware`` does both."""

    formula = "0.5 · (1 - min(waiting, threshold) / threshold)"
    inputs = "scraped waiting requests, corrected by the ledger; the ledger alone without a fresh reading"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        threshold = self.params.threshold
        waiting = [gauges(endpoint, self.handle).waiting for endpoint in endpoints]
        return [0.5 * (1.0 - min(count, threshold) / threshold) for count in waiting]
