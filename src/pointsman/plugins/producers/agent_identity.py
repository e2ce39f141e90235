"""Tells the sessions of coding agents apart by the headers that these send anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import request_attribute_key
from pointsman.framework.plugin import DataProducer, FlowIdentity, Params, register
from pointsman.framework.state import CycleState, StateKey

KNOWN_HEADERS = ("x-claude-code-session-id", "x-session-affinity", "session-id", "session_id")
"""Claude Code, OpenCode, Codex, and Codex of old; llm-d's list and order."""

LONGEST = 1024
IDENTITY = request_attribute_key("agent-identity")


class AgentIdentityParams(Params, frozen=True):
    """Parameters of ``agent-identity``."""

    additional_session_headers: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...], Meta(description="Further headers, looked at before the known.")
    ] = ()


@register("agent-identity")
class AgentIdentity(DataProducer[AgentIdentityParams], FlowIdentity):
    """Names the flow of requests that name none, so that all turns of an agent count as one tenant's.

    Other plugins read it, too: session affinity by the attribute ``agent-identity``. A fairness id that the client
    gives wins.
    """

    formula = f"first of additionalSessionHeaders, {', '.join(KNOWN_HEADERS)} that has a value"
    inputs = "request headers"

    def setup(self) -> None:
        own = (name.strip().lower() for name in self.params.additional_session_headers)
        self._headers = (*own, *KNOWN_HEADERS)

    def flow_of(self, request: InferenceRequest) -> str:
        for name in self._headers:
            value = request.headers.get(name, "").strip()
            if 0 < len(value) <= LONGEST:
                return value
        return ""

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (IDENTITY,)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        if identity := self.flow_of(request):
            state.write(IDENTITY, identity)
