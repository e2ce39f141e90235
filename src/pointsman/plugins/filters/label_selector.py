"""Keeps endpoints by their labels, as Kubernetes selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, Params, register
from pointsman.framework.state import CycleState


class Requirement(Params, frozen=True):
    """One of ``matchExpressions``.

    Raises:
        ValueError: if ``values`` does not fit the operator.
    """

    key: Annotated[str, Meta(min_length=1)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        takes_values = self.operator in ("In", "NotIn")
        if takes_values != bool(self.values):
            raise ValueError(f"values must {'hold at least one' if takes_values else 'be empty'} for {self.operator}")

    def met(self, labels: Mapping[str, str]) -> bool:
        """Whether an endpoint with these labels fits; ``NotIn`` fits one without the label, as in Kubernetes."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values
        return (value is not None) == (self.operator == "Exists")


class LabelSelectorParams(Params, frozen=True):
    """Parameters of ``label-selector-filter``: a Kubernetes label selector."""

    match_labels: Annotated[
        Mapping[str, str], Meta(description="Labels that an endpoint must have, with these values; all of them.")
    ] = {}
    match_expressions: Annotated[
        tuple[Requirement, ...],
        Meta(
            description="Conditions {key, operator, values} that must all hold; operator In, NotIn (also fits a "
            "missing label), Exists or DoesNotExist."
        ),
    ] = ()


@register("label-selector-filter")
class LabelSelector(Filter[LabelSelectorParams]):
    """Keeps endpoints by a Kubernetes label selector; an empty one keeps all.

    An endpoint that does not match is no candidate, not even for the fallback.
    """

    formula = "keep if all of matchLabels and matchExpressions hold"
    inputs = "labels of the endpoint"
    mandatory = True

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        wanted, expressions = self.params.match_labels.items(), self.params.match_expressions
        return [
            endpoint
            for endpoint in endpoints
            if wanted <= endpoint.labels.items() and all(rule.met(endpoint.labels) for rule in expressions)
        ]


@register("by-label-selector")
class ByLabelSelector(LabelSelector):
    """The older name of label-selector-filter."""


class ByLabelParams(Params, frozen=True):
    """Parameters of ``by-label``.

    Raises:
        ValueError: if ``label`` is missing, or nothing could ever match.
    """

    label: Annotated[str, Meta(description="Label to look at; must be given.")] = ""
    valid_values: Annotated[tuple[str, ...], Meta(description="Values that an endpoint may have there.")] = ()
    allows_no_label: Annotated[bool, Meta(description="Also keep endpoints without the label.")] = False

    def __post_init__(self) -> None:
        if not self.label:
            raise ValueError("label must be given")
        if not (self.valid_values or self.allows_no_label):
            raise ValueError("validValues must be given unless allowsNoLabel is true")


@register("by-label")
class ByLabel(Filter[ByLabelParams]):
    """llm-d's older filter by one label; label-selector-filter can do the same and more."""

    formula = "keep if the label has one of validValues, or is missing and allowsNoLabel"
    inputs = "one label of the endpoint"
    mandatory = True

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        label, values = self.params.label, self.params.valid_values
        bare = self.params.allows_no_label
        return [e for e in endpoints if (e.labels[label] in values if label in e.labels else bare)]
