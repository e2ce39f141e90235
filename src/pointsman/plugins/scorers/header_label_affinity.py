"""Prefers endpoints whose label equals a request header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.plugin import AnswerHeaders, EndpointObserver, Params, PickObserver, Scorer, register
from pointsman.framework.state import CycleState
from pointsman.plugins._served import Served


class HeaderLabelAffinityParams(Params, frozen=True):
    """Parameters of ``header-label-affinity-scorer``, as in llm-d.

    Raises:
        ValueError: if the header or the label is missing.
    """

    header_name: Annotated[str, Meta(description="Request header with the wanted value; must be given.")] = ""
    label_key: Annotated[str, Meta(description="Label to compare with it; must be given.")] = ""
    stamp_response_header: Annotated[
        bool, Meta(description="Put the label of the endpoint that answered on the answer, under headerName.")
    ] = True

    def __post_init__(self) -> None:
        if not self.header_name.strip():
            raise ValueError("headerName must be given")
        if not self.label_key:
            raise ValueError("labelKey must be given")


@register("header-label-affinity-scorer")
class HeaderLabelAffinity(Scorer[HeaderLabelAffinityParams], PickObserver, AnswerHeaders, EndpointObserver):
    """One instance per header and label, each with a weight of its own."""

    formula = "1 if the label equals the header, else 0; 0 for all without the header"
    inputs = "request header, label of the endpoint; puts the header on answers"

    def setup(self) -> None:
        self._header = self.params.header_name.strip().lower()
        self._served = Served()

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        wanted, label = request.headers.get(self._header, ""), self.params.label_key
        if not wanted:
            return [0.0] * len(endpoints)
        return [float(endpoint.labels.get(label) == wanted) for endpoint in endpoints]

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        if self.params.stamp_response_header:
            self._served.offer(result.targets)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._served.forget(endpoint)

    def answer_headers(self, request: InferenceRequest, chosen: Endpoint, served: str) -> Mapping[str, str]:
        endpoint = self._served.find(chosen, served) if self.params.stamp_response_header else None
        label = endpoint.labels.get(self.params.label_key) if endpoint else None
        return {self._header: label} if label else {}
