"""Keeps endpoints by one number that is known of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, Params, register
from pointsman.framework.state import CycleState
from pointsman.plugins._attributes import AttributeName, AttributeProducer, attribute_reader

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "LessThan": operator.lt,
    "LessThanOrEqual": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqual": operator.ge,
    "Equal": operator.eq,
    "NotEqual": operator.ne,
}


class Threshold(Params, frozen=True):
    """Compare with a fixed value."""

    operator: Literal["LessThan", "LessThanOrEqual", "GreaterThan", "GreaterThanOrEqual", "Equal", "NotEqual"]
    value: float


class ValueRange(Params, frozen=True):
    """Both ends belong to it.

    Raises:
        ValueError: if it is empty.
    """

    min: float
    max: float

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError("min is above max")


class TopK(Params, frozen=True):
    """So many of the best; more where some are equal to the last of them."""

    k: Annotated[int, Meta(ge=1)]
    higher_is_better: bool = True


class Percentile(Params, frozen=True):
    """Those at least as good as the value at a nearest-rank percentile."""

    percentile: Annotated[float, Meta(ge=0, le=100)]
    higher_is_better: bool = True


class Algorithm(Params, frozen=True):
    """Which, and its settings.

    Raises:
        ValueError: if the settings of the type named are missing.
    """

    type: Literal["threshold", "range", "topK", "percentile"] = "threshold"
    threshold: Threshold | None = None
    range: ValueRange | None = None
    top_k: TopK | None = msgspec.field(name="topK", default=None)
    percentile: Percentile | None = None

    def __post_init__(self) -> None:
        settings = {"threshold": self.threshold, "range": self.range, "topK": self.top_k, "percentile": self.percentile}
        if settings[self.type] is None:
            raise ValueError(f"algorithm.{self.type} must be given")


class EndpointAttributeFilterParams(Params, frozen=True):
    """Parameters of ``endpoint-attribute-filter``, as in llm-d.

    Raises:
        ValueError: if ``algorithm`` is missing.
    """

    attribute: AttributeName = ""
    producer: AttributeProducer = ""
    on_missing: Annotated[
        Literal["Pass", "Fail"], Meta(description="Whether endpoints without the attribute stay.")
    ] = "Pass"
    fallback_on_empty: Annotated[bool, Meta(description="Keep all endpoints when none is left.")] = False
    algorithm: Annotated[
        Algorithm | None,
        Meta(
            description="Must be given: {type: threshold, threshold: {operator, value}}, operator LessThan, "
            "LessThanOrEqual, GreaterThan, GreaterThanOrEqual, Equal or NotEqual; {type: range, range: {min, max}}; "
            "{type: topK, topK: {k, higherIsBetter}}; {type: percentile, percentile: {percentile, higherIsBetter}}."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.algorithm is None:
            raise ValueError("algorithm must be given")


@register("endpoint-attribute-filter")
class EndpointAttributeFilter(Filter[EndpointAttributeFilterParams]):
    """Keeps endpoints by one number that is known of them.

    One instance per number. How often it was missing is counted, since a wrong name looks like that.
    """

    formula = "keep if the attribute passes algorithm; without it by onMissing; all if none passes and fallbackOnEmpty"
    inputs = "gauges corrected by the ledger, work in flight, or a label"

    def setup(self) -> None:
        self._read = attribute_reader(self.params.attribute, self.params.producer, self.handle)
        self._missing = 0

    def stats(self) -> Mapping[str, int]:
        return {"missing": self._missing}

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        values = [self._read(endpoint) for endpoint in endpoints]
        known = [value for value in values if value is not None]
        self._missing += len(values) - len(known)
        passes, bare = self._test(known), self.params.on_missing == "Pass"
        kept = [
            endpoint
            for endpoint, value in zip(endpoints, values, strict=True)
            if (bare if value is None else passes(value))
        ]
        return kept if kept or not self.params.fallback_on_empty else endpoints

    def _test(self, known: Sequence[float]) -> Callable[[float], bool]:
        algorithm = self.params.algorithm
        if algorithm is None or not known:
            return lambda _: True
        if algorithm.type == "threshold" and algorithm.threshold:
            compare, bound = _COMPARE[algorithm.threshold.operator], algorithm.threshold.value
            return lambda value: compare(value, bound)
        if algorithm.type == "range" and algorithm.range:
            low, high = algorithm.range.min, algorithm.range.max
            return lambda value: low <= value <= high
        if algorithm.type == "topK" and algorithm.top_k:
            return _at_least(sorted(known), algorithm.top_k.k, higher=algorithm.top_k.higher_is_better)
        assert algorithm.percentile
        higher = algorithm.percentile.higher_is_better
        rank = max(1, math.ceil(algorithm.percentile.percentile / 100 * len(known)))
        return _at_least(sorted(known), len(known) - rank + 1 if higher else rank, higher=higher)


def _at_least(ordered: Sequence[float], count: int, *, higher: bool) -> Callable[[float], bool]:
    """Passes what is no worse than the ``count``-th best of ``ordered`` (ascending)."""
    count = min(count, len(ordered))
    bound = ordered[-count] if higher else ordered[count - 1]
    return (lambda value: value >= bound) if higher else (lambda value: value <= bound)
