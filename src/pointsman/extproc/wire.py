"""The talk between proxy and picker, free of any transport: events come in, actions go out.

A transport turns bytes into events, feeds them to a :class:`pointsman.extproc.stream.Stream` and turns its actions
into bytes, in order. That is all it needs to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Literal, TypeAlias

import msgspec

from pointsman.api.request import RequestHead
from pointsman.errors import PointsmanError

DESTINATION = "x-gateway-destination-endpoint"
"""Header, and key of the dynamic metadata, that carries the pick: ``ip:port[,ip:port...]``."""

DESTINATION_NAMESPACE = "envoy.lb"
"""Namespace of the dynamic metadata that carries the pick."""

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
"""Namespace of the filter metadata in which the proxy names the only endpoints it allows."""

SUBSET_KEY = "x-gateway-destination-endpoint-subset"

SERVED_KEY = "x-gateway-destination-endpoint-served"
"""Key of the filter metadata, beside the pick, in which the proxy tells which endpoint has answered."""

Phase: TypeAlias = Literal[
    "request_headers",
    "request_body",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_trailers",
]


class WireError(PointsmanError):
    """Bytes that are no message of the protocol, or a message that holds nothing we know."""

    reason = "wire"


class BodyMode(IntEnum):
    """How the proxy hands a body over; the numbers are the protocol's."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4
    GRPC = 5


class RequestHeaders(msgspec.Struct, frozen=True):
    """The first message of a stream. The body modes are None when the proxy does not tell them."""

    head: RequestHead
    end_of_stream: bool = False
    request_body_mode: BodyMode | None = None
    response_body_mode: BodyMode | None = None


class RequestBody(msgspec.Struct, frozen=True):
    """A piece of the request's body; all of it in mode BUFFERED."""

    data: bytes
    end_of_stream: bool = False


class RequestTrailers(msgspec.Struct, frozen=True):
    """The request's body ended with trailers."""


class ResponseHeaders(msgspec.Struct, frozen=True):
    """The head of the answer, lower-case names, ``:status`` included.

    ``served`` is the endpoint (``ip:port``) that answered, ``""`` when the proxy does not tell.
    """

    headers: Mapping[str, str]
    end_of_stream: bool = False
    served: str = ""


class ResponseBody(msgspec.Struct, frozen=True):
    """A piece of the answer's body."""

    data: bytes
    end_of_stream: bool = False


class ResponseTrailers(msgspec.Struct, frozen=True):
    """The answer's body ended with trailers."""


Event: TypeAlias = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers


class Continue(msgspec.Struct, frozen=True):
    """Go on; nothing changed but, in reply to an answer's head, the headers named.

    ``response_body_mode`` asks the proxy to hand over the answer's body from now on; only as a reply to headers.
    ``set_headers`` and ``remove_headers`` go with the phase ``response_headers`` only.
    """

    phase: Phase
    response_body_mode: BodyMode | None = None
    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True):
    """The pick, as the reply to a phase of the request.

    Attributes:
        phase: the message that is answered.
        destination: ``ip:port[,ip:port...]``, sent as header and as metadata; ``""`` takes the client's header away.
        set_headers: further headers, overwriting those of the client.
        body: replaces the body (only in reply to one), None to leave it.
        remove_headers: headers of the client's to take away.
    """

    phase: Literal["request_headers", "request_body", "request_trailers"]
    destination: str
    set_headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    remove_headers: tuple[str, ...] = ()


class Replace(msgspec.Struct, frozen=True):
    """Other bytes in the place of those of a ``response_body`` message (any mode but FULL_DUPLEX_STREAMED)."""

    data: bytes


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a body on its way through us (FULL_DUPLEX_STREAMED)."""

    data: bytes
    end_of_stream: bool
    response: bool = False


class Immediate(msgspec.Struct, frozen=True):
    """Answer the client now, in the model server's stead. ``details`` shows up in the proxy's access log only."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    details: str = ""


Action: TypeAlias = Continue | Route | Replace | Chunk | Immediate
