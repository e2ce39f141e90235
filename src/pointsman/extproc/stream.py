"""One HTTP request as the proxy tells it: a state machine without I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from pointsman.api.request import RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.errors import BodyTooLargeError, PointsmanError, RequestError
from pointsman.extproc import wire
from pointsman.extproc.wire import BodyMode, Chunk, Continue, Immediate, Route
from pointsman.requestcontrol.exchange import Decider, Exchange

DROP_REASON = "x-llm-d-request-dropped-reason"
"""Response header that says why load was shed."""

CHUNK_BYTES = 62_000
"""Largest piece of a body in one reply; proxies refuse gRPC messages not far above it."""

_WHOLE = (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)
_UNSUPPORTED = (BodyMode.STREAMED, BodyMode.GRPC)


class Limits(msgspec.Struct, frozen=True):
    """What a stream accepts. ``max_body_bytes`` bounds request bodies; larger ones are refused with 413."""

    max_body_bytes: int = 32 * 1024 * 1024
    allow_mode_override: bool = True
    """Ask for the answer's body when an exchange wants to see it; a proxy that does not allow it ignores the wish."""
    assumed_mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    """Body mode, both ways, of a proxy that does not tell: the one the Endpoint Picker contract prescribes."""


DEFAULT_LIMITS = Limits()


class BodyModeError(RequestError):
    """The gateway is set to a body mode in which no pick by body is possible."""

    http_status = 500
    reason = "body-mode"


def ignore_error(error: Exception) -> None:
    """Report an unexpected failure to nobody."""


def refusal(error: Exception) -> Immediate:
    """The HTTP answer for an error: an OpenAI-style body that never holds internals of unexpected failures."""
    if isinstance(error, RequestError):
        status, code, reason, text = error.http_status, error.code, error.reason, str(error)
    else:
        status, code, reason, text = 500, PointsmanError.code, PointsmanError.reason, "the endpoint picker failed"
    drop = error.drop_reason if isinstance(error, RequestError) else None
    headers = [("content-type", "application/json"), *([(DROP_REASON, drop)] if drop else [])]
    content = {"message": f"inference error: {code} - {text}", "type": _error_type(status), "code": status}
    return Immediate(status, tuple(headers), msgspec.json.encode({"error": content}), f"pointsman_{reason}")


def _error_type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {403: "permission_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")


class Stream:
    """Turns the events of one request into replies, and tells its exchange how things went.

    Whatever comes, the replies are legal and nothing is raised. After an :class:`Immediate` the stream is ``done``:
    later events are answered with nothing.

    Args:
        decider: makes the decision.
        limits: what is accepted.
        on_error: told of every failure that is not a refusal, for the log.
        timer: real seconds, for the scheduling latency.
    """

    def __init__(
        self,
        decider: Decider,
        limits: Limits = DEFAULT_LIMITS,
        *,
        on_error: Callable[[Exception], None] = ignore_error,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._decider, self._limits, self._on_error, self._timer = decider, limits, on_error, timer
        self._head: RequestHead | None = None
        self._mode = self._response_mode = limits.assumed_mode
        self._body: list[bytes] = []
        self._size = 0
        self._exchange: Exchange | None = None
        self._decided = self._saw_head = self._saw_body = self._ended = self.done = False

    def feed(self, event: wire.Event) -> list[wire.Action]:
        """Take the next message; answer with the replies to send, in order."""
        if self.done:
            return []
        try:
            return self._dispatch(event)
        except Exception as error:  # noqa: BLE001 - the proxy must get a legal answer whatever breaks
            return self.fail(error)

    def fail(self, error: Exception) -> list[wire.Action]:
        """Refuse the request because of an error met while handling it.

        Once the answer is on its way there is nothing to refuse: the stream just ends, and the proxy goes on alone.
        """
        if self.done:
            return []
        self.done = True
        if not isinstance(error, RequestError):
            self._on_error(error)
        self._end("error")
        return [] if self._saw_head else [refusal(error)]

    def close(self, *, shutdown: bool = False) -> None:
        """The proxy's stream is over; ``shutdown`` when we are the ones who cut it. Later calls do nothing.

        Envoy closes its stream in the same way, often by a reset, whether the answer was complete, the client left or
        the model server broke off. So an end amid a body that we are shown, or before any answer, is the client's
        doing; and a body that we are not shown counts as complete.
        """
        self.done = True
        if shutdown:
            self._end("error")
        elif self._saw_head and not self._saw_body:
            self._end("complete")
        else:
            self._end("client-abort")

    def _dispatch(self, event: wire.Event) -> list[wire.Action]:
        match event:
            case wire.RequestHeaders():
                return self._request_headers(event)
            case wire.RequestBody():
                return self._request_body(event)
            case wire.RequestTrailers():
                return self._request_trailers()
            case wire.ResponseHeaders():
                return self._response_headers(event)
            case wire.ResponseBody():
                return self._response_body(event)
            case wire.ResponseTrailers():
                self._end("complete")
                return [Continue("response_trailers")]

    # Request

    def _request_headers(self, event: wire.RequestHeaders) -> list[wire.Action]:
        if self._head is not None:
            return [Continue("request_headers")]
        self._head = event.head
        if event.request_body_mode is not None:
            self._mode = event.request_body_mode
        if event.response_body_mode is not None:
            self._response_mode = event.response_body_mode
        if event.end_of_stream or self._mode == BodyMode.NONE:
            return [self._route("request_headers")]
        if self._mode in _UNSUPPORTED:
            # STREAMED picks race with the proxy's own choice of a host; a clear refusal beats occasional 503s
            raise BodyModeError(
                f"the gateway sends request bodies in mode {self._mode.name}; set FULL_DUPLEX_STREAMED or BUFFERED"
            )
        self._check_size(_content_length(event.head))
        return [Continue("request_headers")] if self._mode in _WHOLE else []

    def _request_body(self, event: wire.RequestBody) -> list[wire.Action]:
        if self._decided:
            return self._pass_request_body(event)
        self._body.append(event.data)
        self._size += len(event.data)
        self._check_size(self._size)
        if self._mode in _WHOLE:
            if self._mode == BodyMode.BUFFERED_PARTIAL and not event.end_of_stream:
                raise BodyTooLargeError("the body is larger than the gateway's buffer")
            return [self._route("request_body")]
        return self._route_streamed(last=True) if event.end_of_stream else []

    def _pass_request_body(self, event: wire.RequestBody) -> list[wire.Action]:
        if self._mode == BodyMode.FULL_DUPLEX_STREAMED:
            return list(_chunks(event.data, last=event.end_of_stream, response=False))
        return [Continue("request_body")]

    def _request_trailers(self) -> list[wire.Action]:
        if self._decided or self._head is None:
            return [Continue("request_trailers")]
        if self._mode in _WHOLE:
            return [self._route("request_trailers")]
        return [*self._route_streamed(last=False), Continue("request_trailers")]

    def _check_size(self, size: int) -> None:
        limit = self._limits.max_body_bytes
        if size > limit:
            self._body.clear()
            raise BodyTooLargeError(f"the request body is larger than {limit} bytes")

    def _decide(self) -> tuple[Exchange, bytes]:
        if self._head is None:
            raise wire.WireError("a body came before the headers")
        received = self._timer()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._exchange = exchange = self._decider.decide(self._head, body, received=received)
        self._decided = True
        return exchange, body

    def _route(self, phase: Literal["request_headers", "request_body", "request_trailers"]) -> Route:
        decision = self._decide()[0].decision
        headers = _headers_of(decision)
        body = decision.body if phase == "request_body" else None
        if body is not None:
            # a buffering proxy keeps the client's length and fails the request if it is not mended
            headers = (*headers, ("content-length", str(len(body))))
        return Route(phase, decision.destination, headers, body)

    def _route_streamed(self, *, last: bool) -> list[wire.Action]:
        exchange, body = self._decide()
        decision = exchange.decision
        headers = _headers_of(decision)
        if decision.body is not None:
            body = decision.body
            if last:
                # Envoy has dropped the client's length and sends chunks; other proxies may have kept it
                headers = (*headers, ("content-length", str(len(body))))
        route = Route("request_headers", decision.destination, headers)
        return [route, *_chunks(body, last=last, response=False)]

    # Response

    def _response_headers(self, event: wire.ResponseHeaders) -> list[wire.Action]:
        self._saw_head = True
        exchange = self._exchange
        if exchange is None:
            return [Continue("response_headers")]
        status = _int(event.headers.get(":status", ""))
        stream = event.headers.get("content-type", "").lower().startswith("text/event-stream")
        self._tell(lambda: exchange.response_headers(status, event_stream=stream))
        if event.end_of_stream:
            self._end("complete")
        elif self._wants_body(exchange, status):
            self._response_mode = BodyMode.STREAMED
            return [Continue("response_headers", BodyMode.STREAMED)]
        return [Continue("response_headers")]

    def _wants_body(self, exchange: Exchange, status: int) -> bool:
        # Envoy 1.40 takes no notice of the wish when the request went FULL_DUPLEX_STREAMED
        possible = self._response_mode == BodyMode.NONE and self._mode != BodyMode.FULL_DUPLEX_STREAMED
        return possible and self._limits.allow_mode_override and status == 200 and exchange.observe_body

    def _response_body(self, event: wire.ResponseBody) -> list[wire.Action]:
        self._saw_body = True
        exchange = self._exchange
        if exchange is not None and not self._ended:
            self._tell(lambda: exchange.response_body(event.data, last=event.end_of_stream))
        if event.end_of_stream:
            self._end("complete")
        if self._response_mode == BodyMode.FULL_DUPLEX_STREAMED:
            return list(_chunks(event.data, last=event.end_of_stream, response=True))
        return [Continue("response_body")]

    def _end(self, cause: EndCause) -> None:
        exchange = self._exchange
        if exchange is not None and not self._ended:
            self._ended = True
            self._tell(lambda: exchange.end(cause))

    def _tell(self, call: Callable[[], None]) -> None:
        # an answer on its way is worth more than our books
        try:
            call()
        except Exception as error:  # noqa: BLE001 - exchanges promise not to raise; plugins behind them may be anyone's
            self._on_error(error)


def _headers_of(decision: RoutingDecision) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in decision.headers.items() if name != wire.DESTINATION)


def _chunks(data: bytes, *, last: bool, response: bool) -> Iterator[Chunk]:
    if not data:
        # an empty piece only says that the body is over
        if last:
            yield Chunk(b"", end_of_stream=True, response=response)
        return
    for start in range(0, len(data), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        yield Chunk(data[start:end], end_of_stream=last and end >= len(data), response=response)


def _content_length(head: RequestHead) -> int:
    return _int(head.headers.get("content-length", ""))


def _int(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 20 else 0
