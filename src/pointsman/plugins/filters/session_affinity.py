"""Pins a session to its endpoint."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, register
from pointsman.framework.state import CycleState
from pointsman.plugins._sessions import SessionAffinity, SessionAffinityParams


@register("session-affinity-filter")
class SessionAffinityFilter(SessionAffinity, Filter[SessionAffinityParams]):
    """Never leaves nothing: a session without an endpoint, or whose endpoint is gone, may go anywhere and stays there.

    Use this or session-affinity-scorer, not both. With ``encoded_endpoint_header`` a client can choose its endpoint.
    """

    formula = "keep the session's endpoint alone if it is a candidate, else all"
    inputs = "request header, or a session id and own memory of picks; puts the header on answers"

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        pinned = self.pinned(request, state)
        if pinned is None:
            return endpoints
        return [endpoint for endpoint in endpoints if endpoint.id == pinned] or endpoints
