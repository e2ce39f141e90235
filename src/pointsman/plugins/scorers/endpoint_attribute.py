"""Rates endpoints by one number that is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState
from pointsman.plugins._attributes import AttributeName, AttributeProducer, attribute_reader


class FixedRange(Params, frozen=True):
    """Values beyond it count as its ends.

    Raises:
        ValueError: if it is empty.
    """

    min: float
    max: float

    def __post_init__(self) -> None:
        if self.min >= self.max:
            raise ValueError("min must be below max")


class AdaptiveRange(Params, frozen=True):
    """From the smallest to the largest value of the candidates; has no settings."""


class Normalization(Params, frozen=True):
    """Which values score 0 and 1.

    Raises:
        ValueError: if both ways are given.
    """

    fixed_range: FixedRange | None = None
    adaptive_range: AdaptiveRange | None = None

    def __post_init__(self) -> None:
        if self.fixed_range and self.adaptive_range:
            raise ValueError("fixedRange and adaptiveRange exclude each other")


class Algorithm(Params, frozen=True):
    """Which end is the good one."""

    type: Literal["linear_lower_is_better", "linear_higher_is_better"]
    normalization: Normalization = Normalization()


class EndpointAttributeScorerParams(Params, frozen=True):
    """Parameters of ``endpoint-attribute-scorer``, as in llm-d.

    Raises:
        ValueError: if ``algorithm`` is missing.
    """

    attribute: AttributeName = ""
    producer: AttributeProducer = ""
    algorithm: Annotated[
        Algorithm | None,
        Meta(
            description="Must be given: {type, normalization}; type linear_lower_is_better or linear_higher_is_better, "
            "normalization {adaptiveRange: {}} (the default) or {fixedRange: {min, max}}."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.algorithm is None:
            raise ValueError("algorithm must be given")


@register("endpoint-attribute-scorer")
class EndpointAttributeScorer(Scorer[EndpointAttributeScorerParams]):
    """Rates endpoints by one number that is known of them.

    One instance per number. How often it was missing is counted, since a wrong name looks like that.
    """

    formula = (
        "(value - min)/(max - min) over the candidates or within fixedRange, or 1 minus that; "
        "1 if all are equal, 0 without the attribute"
    )
    inputs = "gauges corrected by the ledger, work in flight, or a label"

    def setup(self) -> None:
        self._read = attribute_reader(self.params.attribute, self.params.producer, self.handle)
        self._missing = 0

    def stats(self) -> Mapping[str, int]:
        return {"missing": self._missing}

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        values = [self._read(endpoint) for endpoint in endpoints]
        known = [value for value in values if value is not None]
        self._missing += len(values) - len(known)
        algorithm = self.params.algorithm
        assert algorithm
        fixed = algorithm.normalization.fixed_range
        low, high = (fixed.min, fixed.max) if fixed else (min(known, default=0.0), max(known, default=0.0))
        if low == high:
            return [0.0 if value is None else 1.0 for value in values]
        lower = algorithm.type == "linear_lower_is_better"
        best, worst = (low, high) if lower else (high, low)
        span = best - worst
        return [0.0 if v is None else (min(max(v, low), high) - worst) / span for v in values]
