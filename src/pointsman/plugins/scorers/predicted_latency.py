"""Rates endpoints by the latency that earlier prompts of the same length had there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RequestOutcome
from pointsman.framework.plugin import EndpointObserver, OutcomeObserver, Params, Scorer, register
from pointsman.framework.state import CycleState

_WINDOW = 128


class PredictedLatencyParams(Params, frozen=True):
    """Parameters of ``predicted-latency``."""

    target_metric: Annotated[
        Literal["ttft", "tpot"],
        Meta(description="ttft: time to the first token; tpot: mean time per token after it."),
    ] = "ttft"
    percentile: Annotated[
        float, Meta(ge=0, le=1, description="Which value of the history is the prediction; 0.5 is the median.")
    ] = 0.5


class _Window:
    """The last latencies of one endpoint and prompt-length bucket, with their percentile worked out when asked."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_WINDOW)
        self._cached: float | None = None

    def add(self, value: float) -> None:
        self._values.append(value)
        self._cached = None

    def percentile(self, share: float) -> float:
        """Nearest-rank percentile."""
        if self._cached is None:
            ordered = sorted(self._values)
            self._cached = ordered[max(0, math.ceil(share * len(ordered)) - 1)]
        return self._cached


@register("predicted-latency")
class PredictedLatency(Scorer[PredictedLatencyParams], OutcomeObserver, EndpointObserver):
    """History of the last 128 latencies per endpoint and prompt-length bucket (powers of two).

    An endpoint without history for the bucket gets 1, so that it is tried. Failed requests are not counted: an
    endpoint that refuses fast is not a fast one.
    """

    formula = "lowest predicted latency of the candidates / own predicted latency; 1 without history"
    inputs = "outcomes of earlier requests: TTFT or TPOT by prompt length"

    def setup(self) -> None:
        self._history: dict[EndpointId, dict[int, _Window]] = {}

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        bucket = request.prompt_tokens.bit_length()
        predicted = [self._predict(endpoint.id, bucket) for endpoint in endpoints]
        best = min((value for value in predicted if value is not None), default=0.0)
        return [best / value if value else 1.0 for value in predicted]

    def ended(self, outcome: RequestOutcome) -> None:
        value = outcome.ttft_ms if self.params.target_metric == "ttft" else outcome.tpot_ms
        failed = outcome.cause != "complete" or (outcome.status is not None and outcome.status >= 400)
        if value is None or failed:
            return
        buckets = self._history.setdefault(outcome.endpoint.id, {})
        buckets.setdefault(outcome.request.prompt_tokens.bit_length(), _Window()).add(value)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._history.pop(endpoint.id, None)

    def _predict(self, endpoint: EndpointId, bucket: int) -> float | None:
        window = self._history.get(endpoint, {}).get(bucket)
        return window.percentile(self.params.percentile) if window else None
