"""Prefers the endpoint of the request's session."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Scorer, register
from pointsman.framework.state import CycleState
from pointsman.plugins._sessions import SessionAffinity, SessionAffinityParams


@register("session-affinity-scorer")
class SessionAffinityScorer(SessionAffinity, Scorer[SessionAffinityParams]):
    """A session goes where most weight is; only when its endpoint is no candidate any more is it bound anew."""

    formula = "1 for the session's endpoint, 0 for the others; 0 for all without one"
    inputs = "request header, or a session id and own memory of picks; puts the header on answers"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        pinned = self.pinned(request, state)
        return [float(endpoint.id == pinned) for endpoint in endpoints]
