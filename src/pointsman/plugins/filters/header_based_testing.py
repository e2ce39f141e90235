"""Keeps the endpoints that a test names in a request header. Not for production: a client could choose its pod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, Params, register
from pointsman.framework.state import CycleState

SELECTION_HEADER = "test-epp-endpoint-selection"


class HeaderBasedTestingParams(Params, frozen=True):
    """Parameters of ``header-based-testing-filter``."""

    header: Annotated[str, Meta(min_length=1, description="Request header with the selection, lower case.")] = (
        SELECTION_HEADER
    )


@register("header-based-testing-filter")
class HeaderBasedTesting(Filter[HeaderBasedTestingParams]):
    """For conformance tests: keeps what the request's header names, all without the header, none if nothing matches."""

    formula = "keep if ip or ip:port is in the header's comma list"
    inputs = "request header test-epp-endpoint-selection"
    mandatory = True  # not even the fallback may leave what a test asked for

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        text = request.headers.get(self.params.header, "")
        wanted = {entry.strip() for entry in text.split(",")} - {""}
        if not wanted:
            return endpoints
        return [e for e in endpoints if e.hostport in wanted or e.address in wanted]
