"""What the filter and the scorer for session affinity have in common."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, RequestOutcome, SchedulingResult
from pointsman.framework.keys import request_attribute_key
from pointsman.framework.plugin import (
    AnswerHeaders,
    EndpointObserver,
    OutcomeObserver,
    Params,
    PickObserver,
    Plugin,
)
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins._bindings import Bindings
from pointsman.plugins._served import Served

_LONGEST_TOKEN = 1024
_MOST_WAITING = 65_536
"""Requests whose answer is awaited while another profile's endpoint is to be named in it."""


class EncodedEndpointHeader(Params, frozen=True):
    """Settings of the strategy ``encoded_endpoint_header``."""

    header: Annotated[str, Meta(min_length=1)] = "x-session-token"


class SessionSource(Params, frozen=True):
    """Where a session's id may stand.

    Raises:
        ValueError: unless exactly one of the two is given.
    """

    header: str = ""
    attribute: str = ""

    def __post_init__(self) -> None:
        if bool(self.header) == bool(self.attribute):
            raise ValueError("exactly one of header and attribute must be given")


class SessionIdConfig(Params, frozen=True):
    """Settings of the strategy ``session_id``."""

    sources: tuple[SessionSource, ...] = (SessionSource(header="x-session-id"),)
    eviction_ttl_seconds: Annotated[float, Meta(gt=0)] = 300.0
    eviction_sweep_seconds: Annotated[float, Meta(gt=0)] = 10.0
    max_sessions: Annotated[int, Meta(ge=1)] = 65_536


class SessionAffinityParams(Params, frozen=True):
    """Parameters of session affinity, as in llm-d, and ``sessionIdConfig.maxSessions`` of ours."""

    strategy: Annotated[
        Literal["encoded_endpoint_header", "session_id"],
        Meta(
            description="encoded_endpoint_header: answers carry the endpoint's id in base64, and clients send it back. "
            "session_id: clients send an id of their own, the picker remembers where it went."
        ),
    ] = "encoded_endpoint_header"
    profile_name: Annotated[
        str, Meta(description="Profile whose endpoint the session is pinned to; empty: the one that gets the request.")
    ] = ""
    encoded_endpoint_header_config: Annotated[
        EncodedEndpointHeader, Meta(description="{header}: request and answer header with the endpoint's id.")
    ] = EncodedEndpointHeader()
    session_id_config: Annotated[
        SessionIdConfig,
        Meta(
            description="{sources: [{header} or {attribute}, ...], evictionTtlSeconds, maxSessions}: the first source "
            "with a value wins; an attribute is what another plugin found out, such as session-id or agent-identity. "
            "A session unused for evictionTtlSeconds is forgotten; evictionSweepSeconds is accepted without effect."
        ),
    ] = SessionIdConfig()


class SessionAffinity(
    Plugin[SessionAffinityParams], PickObserver, OutcomeObserver, AnswerHeaders, EndpointObserver
):  # fmt: skip
    """Knows which endpoint a request's session is pinned to."""

    def setup(self) -> None:
        params, config = self.params, self.params.session_id_config
        self._encoded = params.strategy == "encoded_endpoint_header"
        self._header = params.encoded_endpoint_header_config.header.strip().lower()
        self._sources = [
            (source.header.strip().lower(), request_attribute_key(source.attribute)) for source in config.sources
        ]
        self._bindings = Bindings(self.handle.clock, config.eviction_ttl_seconds, config.max_sessions)
        self._served = Served()
        self._stages: OrderedDict[str, EndpointId] = OrderedDict()  # endpoint of profileName, by request
        self._bad_tokens = 0

    def consumes(self) -> tuple[StateKey[str], ...]:
        return () if self._encoded else tuple(key for header, key in self._sources if not header)

    def stats(self) -> Mapping[str, int]:
        return {"bad-tokens": self._bad_tokens} if self._encoded else {}

    def pinned(self, request: InferenceRequest, state: CycleState) -> EndpointId | None:
        """The endpoint of the request's session; None when it has none yet, or says none."""
        if self._encoded:
            return self._decode(request.headers.get(self._header, ""))
        session = self._session(request, state)
        return self._bindings.find(session) if session else None

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        run = result.profiles.get(self.params.profile_name or result.primary)
        if run is None or not run.targets:
            return
        if not self._encoded:
            self._bind(self._session(request, state), run)
        elif self.params.profile_name:
            self._stages[request.id] = run.targets[0].id
            if len(self._stages) > _MOST_WAITING:
                self._stages.popitem(last=False)
        else:
            self._served.offer(run.targets)

    def ended(self, outcome: RequestOutcome) -> None:
        self._stages.pop(outcome.request.id, None)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._served.forget(endpoint)

    def answer_headers(self, request: InferenceRequest, chosen: Endpoint, served: str) -> Mapping[str, str]:
        if not self._encoded:
            return {}
        if self.params.profile_name:
            identity = self._stages.get(request.id)
        else:
            endpoint = self._served.find(chosen, served)
            identity = endpoint.id if endpoint else None
        return {self._header: b64encode(identity.encode()).decode()} if identity else {}

    def _bind(self, session: str, run: ProfileRunResult) -> None:
        """Bind a session to the endpoint chosen, unless it has one that merely was not the best this time."""
        if not session:
            return
        bound = self._bindings.find(session)
        keep = bound is not None and any(scored.endpoint.id == bound for scored in run.candidates)
        self._bindings.bind(session, bound if keep and bound is not None else run.targets[0].id)

    def _session(self, request: InferenceRequest, state: CycleState) -> str:
        for header, key in self._sources:
            value = request.headers.get(header, "") if header else state.get(key, "")
            if text := value.strip():
                return text
        return ""

    def _decode(self, token: str) -> EndpointId | None:
        if not token:
            return None
        try:
            # Cut short it is no id of an endpoint any more, and a client's megabyte is not decoded.
            return EndpointId(b64decode(token[:_LONGEST_TOKEN], validate=True).decode())
        except (ValueError, binascii.Error):
            self._bad_tokens += 1
            return None
