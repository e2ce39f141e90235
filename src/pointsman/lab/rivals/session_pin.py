"""Session pinning: a conversation stays where it began.

Source: llm-d's ``session-affinity-filter`` with the strategy ``session_id`` (300 s to live, rebinds when the endpoint
is gone); Dynamo's, Ray Serve's and SMG's hard affinities are alike. A request without a session, or the first of one,
goes where the profile's scorers say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.plugin import Filter, Params, PickObserver, register
from pointsman.framework.state import CycleState


class SessionPinParams(Params, frozen=True):
    """Parameters of ``session-pin-filter``."""

    header: Annotated[str, Meta(min_length=1, description="Request header that names the session.")] = "x-session-id"
    ttl_seconds: Annotated[float, Meta(gt=0, description="How long a session is remembered after its last pick.")] = (
        300.0
    )


@register("session-pin-filter")
class SessionPin(Filter[SessionPinParams], PickObserver):
    """Keeps the endpoint of the session's last request alone, whatever its load."""

    formula = "the endpoint that the session was sent to last, if it is a candidate; else all"
    inputs = "session header, own picks"

    def setup(self) -> None:
        self._header = self.params.header.lower()
        self._pins: OrderedDict[str, tuple[EndpointId, float]] = OrderedDict()  # the longest unused first

    @property
    def sessions(self) -> int:
        """Sessions remembered."""
        return len(self._pins)

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        pinned, last = self._pins.get(request.headers.get(self._header, ""), (None, 0.0))
        if pinned is None or self.handle.clock.now() - last > self.params.ttl_seconds:
            return endpoints
        return [endpoint for endpoint in endpoints if endpoint.id == pinned] or endpoints

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        session = request.headers.get(self._header, "")
        if not session or not result.targets:
            return
        now = self.handle.clock.now()
        self._pins[session] = (result.chosen.id, now)
        self._pins.move_to_end(session)
        while now - next(iter(self._pins.values()))[1] > self.params.ttl_seconds:
            self._pins.popitem(last=False)
