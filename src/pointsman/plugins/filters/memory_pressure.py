"""Takes out endpoints whose KV cache is nearly full, and rates the others by how near they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import kv_usage
from pointsman.framework.plugin import Filter, Params, Scorer, register
from pointsman.framework.state import CycleState

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as ``5s``, ``500ms`` or ``1m30s``; the text must match the parameter's pattern."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


class MemoryPressureParams(Params, frozen=True):
    """Parameters of ``memory-pressure``.

    Raises:
        ValueError: if ``penaltyThreshold`` is above ``maxKVUtilization``.
    """

    max_kv_utilization: Annotated[
        float, Meta(gt=0, le=1, description="Used share of the KV cache at which an endpoint is taken out.")
    ] = msgspec.field(name="maxKVUtilization", default=0.95)
    penalty_threshold: Annotated[
        float,
        Meta(ge=0, le=1, description="Used share above which the score falls, in a straight line, from 1 to 0."),
    ] = 0.85
    check_interval: Annotated[
        str,
        Meta(
            pattern=r"^(\d+(\.\d+)?(ms|s|m|h))+$",
            description="Duration such as 5s or 500ms. A reading older than this is not trusted to take an endpoint "
            "out: it stays.",
        ),
    ] = "5s"

    def __post_init__(self) -> None:
        if self.penalty_threshold > self.max_kv_utilization:
            raise ValueError("penaltyThreshold is above maxKVUtilization")


@register("memory-pressure")
class MemoryPressure(Filter[MemoryPressureParams], Scorer[MemoryPressureParams]):
    """Filter and scorer in one: name it in either list of a profile, or in both.

    The filter believes only what the engine itself said lately. The score also counts what was picked since, and
    without a fresh reading the ledger alone.
    """

    formula = (
        "keep if kvUsage < maxKVUtilization or the reading is older than checkInterval; "
        "score = min(1, (maxKVUtilization - kvUsage) / (maxKVUtilization - penaltyThreshold)), at least 0"
    )
    inputs = "scraped KV-cache utilisation and its age; the score: corrected by the ledger"

    def setup(self) -> None:
        self._max_age = duration_seconds(self.params.check_interval)

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        limit, oldest = self.params.max_kv_utilization, self.handle.clock.now() - self._max_age
        return [
            endpoint for endpoint in endpoints if endpoint.metrics.kv_usage < limit or endpoint.metrics.updated < oldest
        ]

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        return [self._room(kv_usage(endpoint, self.handle)) for endpoint in endpoints]

    def _room(self, usage: float) -> float:
        limit, knee = self.params.max_kv_utilization, self.params.penalty_threshold
        if usage <= knee:
            return 1.0
        # No division by zero: between knee and limit there is a gap, or the usage would be at the limit.
        return 0.0 if usage >= limit else (limit - usage) / (limit - knee)
