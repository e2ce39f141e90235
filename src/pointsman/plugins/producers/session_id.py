"""Finds the session that a request says it belongs to, in a header or a cookie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import SESSION_ID_KEY
from pointsman.framework.plugin import DataProducer, Params, register
from pointsman.framework.state import CycleState, StateKey

DEFAULT_HEADER = "x-session-id"
LONGEST = 1024
"""Bytes of an id that are believed; a longer one is no session's."""


class SessionIdParams(Params, frozen=True):
    """Parameters of ``session-id-producer``, as in llm-d.

    Raises:
        ValueError: if both a header and a cookie are named.
    """

    header_name: Annotated[
        str, Meta(description=f"Header with the id; {DEFAULT_HEADER} when neither it nor a cookie is named.")
    ] = ""
    cookie_name: Annotated[str, Meta(description="Cookie with the id.")] = ""
    lru_size: Annotated[
        int, Meta(gt=0, description="Accepted for llm-d's sake, without effect: affinity plugins keep the bindings.")
    ] = 1024
    ttl: Annotated[str, Meta(description="Accepted for llm-d's sake, without effect, as lruSize.")] = "30m"

    def __post_init__(self) -> None:
        if self.header_name and self.cookie_name:
            raise ValueError("headerName and cookieName exclude each other")


@register("session-id-producer")
class SessionIdProducer(DataProducer[SessionIdParams]):
    """Writes the id for the plugins that keep a session in its place; nothing for a request that names none."""

    formula = "value of the header, or of the cookie"
    inputs = "request headers"

    def setup(self) -> None:
        self._header = (self.params.header_name or DEFAULT_HEADER).strip().lower()

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (SESSION_ID_KEY,)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        cookie = self.params.cookie_name
        value = _cookie(request.headers, cookie) if cookie else request.headers.get(self._header, "").strip()
        if 0 < len(value) <= LONGEST:
            state.write(SESSION_ID_KEY, value)


def _cookie(headers: Mapping[str, str], name: str) -> str:
    """A cookie's value; repeated headers come joined by a comma, cookies in one by a semicolon (RFC 6265, 5.4)."""
    for pair in headers.get("cookie", "").replace(",", ";").split(";"):
        key, found, value = pair.partition("=")
        if found and key.strip() == name:
            return value.strip().strip('"')
    return ""
