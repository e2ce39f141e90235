"""Says in the answer which endpoint the proxy has really used, for conformance tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import AnswerHeaders, Params, Plugin, register

SERVED_HEADER = "x-conformance-test-served-endpoint"
MISSING = "fail: missing envoy lb metadata"


class ServedVerifierParams(Params, frozen=True):
    """Parameters of ``destination-endpoint-served-verifier``."""

    assume_picked: Annotated[
        bool,
        Meta(
            description="Name the picked endpoint when the proxy does not tell who served. llm-d's plugin reports a "
            "failure then, the light-weight picker of the conformance suite does the same as true."
        ),
    ] = False


@register("destination-endpoint-served-verifier")
class DestinationEndpointServedVerifier(Plugin[ServedVerifierParams], AnswerHeaders):
    """Copies the proxy's word on who served (metadata envoy.lb, ...-served) to x-conformance-test-served-endpoint."""

    formula = "x-conformance-test-served-endpoint: ip:port that answered"
    inputs = "metadata at the answer's head"

    def answer_headers(self, request: InferenceRequest, chosen: Endpoint, served: str) -> Mapping[str, str]:
        return {SERVED_HEADER: served or (chosen.hostport if self.params.assume_picked else MISSING)}
