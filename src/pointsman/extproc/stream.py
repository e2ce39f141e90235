"""One HTTP request as the proxy tells it: a state machine without I/O."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias, cast

import msgspec

from pointsman.api.request import RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.errors import RequestError
from pointsman.extproc import wire
from pointsman.extproc.answer import Answer
from pointsman.extproc.bodies import UNSEEN, WHOLE, RequestBodyBuffer, chunks
from pointsman.extproc.refusals import BodyModeError, refusal
from pointsman.extproc.wire import BodyMode, Continue, Route
from pointsman.requestcontrol.exchange import Decider, Exchange, Pending, is_pending


class Limits(msgspec.Struct, frozen=True):
    """What a stream accepts. ``max_body_bytes`` bounds request bodies; larger ones are refused with 413."""

    max_body_bytes: int = 32 * 1024 * 1024
    allow_mode_override: bool = True
    """Ask for the answer's body when we need to see it; a proxy that does not allow it ignores the wish."""
    assumed_mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    """Body mode, both ways, of a proxy that does not tell: the one the Endpoint Picker contract prescribes."""


DEFAULT_LIMITS = Limits()

_Phase: TypeAlias = Literal["request_headers", "request_body", "request_trailers"]
_RequestEvent: TypeAlias = wire.RequestHeaders | wire.RequestBody | wire.RequestTrailers
_Reply: TypeAlias = Callable[[RoutingDecision, bytes], list[wire.Action]]


def ignore_error(error: Exception) -> None:
    """Report an unexpected failure to nobody."""


class Stream:
    """Turns the events of one request into replies, and tells its exchange how things went.

    Whatever comes, the replies are legal and nothing is raised. After an :class:`Immediate` the stream is ``done``:
    later events are answered with nothing.

    Args:
        decider: makes the decision.
        limits: what is accepted.
        on_error: told of every failure that is not a refusal, for the log.
        timer: real seconds, for the scheduling latency.
        emit: sends replies that come later than the call that asked for them; None if the decider is never late.
    """

    def __init__(
        self,
        decider: Decider,
        limits: Limits = DEFAULT_LIMITS,
        *,
        on_error: Callable[[Exception], None] = ignore_error,
        timer: Callable[[], float] = time.perf_counter,
        emit: Callable[[list[wire.Action]], None] | None = None,
    ) -> None:
        self._decider, self._limits, self._on_error, self._timer = decider, limits, on_error, timer
        self._emit = emit
        self._head: RequestHead | None = None
        self._mode = self._response_mode = limits.assumed_mode
        self._body = RequestBodyBuffer(limits.max_body_bytes)
        self._exchange: Exchange | None = None
        self._answer: Answer | None = None
        self._pending: Pending | None = None
        self._waiting: list[_RequestEvent] = []
        """What came while the decision was pending."""
        self._decided = self._saw_body = self._ended = self.done = False

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
        self._give_up()
        self._end("error")
        return [] if self._answer is not None else [refusal(error)]

    def close(self, *, shutdown: bool = False) -> None:
        """The proxy's stream is over; ``shutdown`` when we are the ones who cut it. Later calls do nothing.

        Envoy closes its stream in the same way, often by a reset, whether the answer was complete, the client left or
        the model server broke off. So an end amid a body that we are shown, or before any answer, is the client's
        doing; and a body that we are not shown counts as complete.
        """
        self.done = True
        self._give_up()
        if shutdown:
            self._end("error")
        elif self._answer is not None and not self._saw_body:
            self._end("complete")
        else:
            self._end("client-abort")

    def _dispatch(self, event: wire.Event) -> list[wire.Action]:
        match event:
            case wire.ResponseBody():
                return self._response_body(event)
            case wire.ResponseHeaders():
                return self._response_headers(event)
            case wire.ResponseTrailers():
                self._end("complete")
                return [*(self._answer.trailers() if self._answer else ()), Continue("response_trailers")]
        return self._wait(event) if self._pending is not None else self._request(event)

    # Request

    def _request(self, event: _RequestEvent) -> list[wire.Action]:
        match event:
            case wire.RequestHeaders():
                return self._request_headers(event)
            case wire.RequestBody():
                return self._request_body(event)
            case wire.RequestTrailers():
                return self._request_trailers()

    def _request_headers(self, event: wire.RequestHeaders) -> list[wire.Action]:
        if self._head is not None:
            return [Continue("request_headers")]
        self._head = head = event.head
        if event.request_body_mode is not None:
            self._mode = event.request_body_mode
        if event.response_body_mode is not None:
            self._response_mode = event.response_body_mode
        if self._mode == BodyMode.GRPC:
            raise BodyModeError("the gateway sends request bodies in mode GRPC; set FULL_DUPLEX_STREAMED or BUFFERED")
        if event.end_of_stream:
            return self._decide(head, partial(self._route, "request_headers"))
        if self._mode in UNSEEN:
            return self._decide(_unseen(head), partial(self._route, "request_headers"))
        self._body.announce(head)
        return [Continue("request_headers")] if self._mode in WHOLE else []

    def _request_body(self, event: wire.RequestBody) -> list[wire.Action]:
        if self._decided:
            return self._pass_request_body(event)
        if self._head is None:
            raise wire.WireError("a body came before the headers")
        self._body.add(event.data)
        if self._mode in WHOLE:
            # a piece that does not fit the gateway's buffer is only the beginning, and no JSON
            cut = self._mode == BodyMode.BUFFERED_PARTIAL and not event.end_of_stream
            return self._decide(_unseen(self._head) if cut else self._head, partial(self._route, "request_body"))
        if not event.end_of_stream:
            return []
        return self._decide(self._head, partial(self._route_streamed, last=True))

    def _pass_request_body(self, event: wire.RequestBody) -> list[wire.Action]:
        if self._mode == BodyMode.FULL_DUPLEX_STREAMED:
            return list(chunks(event.data, last=event.end_of_stream, response=False))
        return [Continue("request_body")]

    def _request_trailers(self) -> list[wire.Action]:
        if self._decided or self._head is None:
            return [Continue("request_trailers")]
        if self._mode in WHOLE:
            return self._decide(self._head, partial(self._route, "request_trailers"))
        return self._decide(self._head, partial(self._route_streamed, last=False))

    def _decide(self, head: RequestHead, reply: _Reply) -> list[wire.Action]:
        received = self._timer()
        body = self._body.take()
        found = self._decider.decide(head, body, received=received)
        self._decided = True
        if is_pending(found):
            self._pending = found
            found.add_done_callback(partial(self._resolve, reply, body))
            return []
        self._exchange = exchange = cast("Exchange", found)
        return reply(exchange.decision, body)

    def _route(self, phase: _Phase, decision: RoutingDecision, body: bytes) -> list[wire.Action]:
        headers = _headers_of(decision)
        changed = decision.body if phase == "request_body" else None
        if changed is not None:
            # a buffering proxy keeps the client's length and fails the request if it is not mended
            headers = (*headers, ("content-length", str(len(changed))))
        return [Route(phase, decision.destination, headers, changed, self._removed(decision))]

    def _route_streamed(self, decision: RoutingDecision, body: bytes, *, last: bool) -> list[wire.Action]:
        headers = _headers_of(decision)
        if decision.body is not None:
            body = decision.body
            if last:
                # Envoy has dropped the client's length and sends chunks; other proxies may have kept it
                headers = (*headers, ("content-length", str(len(body))))
        route = Route("request_headers", decision.destination, headers, None, self._removed(decision))
        trailers = () if last else (Continue("request_trailers"),)
        return [route, *chunks(body, last=last, response=False), *trailers]

    def _removed(self, decision: RoutingDecision) -> tuple[str, ...]:
        if decision.renamed and self._head is not None and "accept-encoding" in self._head.headers:
            # the client's name for the model cannot be put back into a compressed answer
            return (*decision.remove_headers, "accept-encoding")
        return decision.remove_headers

    # A decision that comes later

    def _wait(self, event: _RequestEvent) -> list[wire.Action]:
        if isinstance(event, wire.RequestBody):
            self._body.add(event.data)  # it counts, though nobody will take it
        self._waiting.append(event)
        return []

    def _resolve(self, reply: _Reply, body: bytes, pending: Pending) -> None:
        if pending is not self._pending:
            _abandon(pending)
            return
        self._pending = None
        try:
            self._exchange = exchange = pending.result()
            actions = reply(exchange.decision, body)
        except Exception as error:  # noqa: BLE001 - the proxy must get a legal answer whatever breaks
            actions = self.fail(error)
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            actions += self.feed(event)
        if self._emit is not None:
            self._emit(actions)

    def _give_up(self) -> None:
        """Nobody waits for the decision any more."""
        pending, self._pending = self._pending, None
        self._waiting = []
        if pending is not None:
            pending.cancel()

    # Response

    def _response_headers(self, event: wire.ResponseHeaders) -> list[wire.Action]:
        self._give_up()  # an answer before the decision is the proxy's own
        self._answer = answer = Answer(self._exchange, self._on_error, self._mode, self._response_mode)
        actions = answer.head(event, may_ask=self._limits.allow_mode_override)
        if event.end_of_stream:
            self._end("complete")
        return actions

    def _response_body(self, event: wire.ResponseBody) -> list[wire.Action]:
        self._saw_body = True
        if self._answer is None:
            self._answer = Answer(None, self._on_error, self._mode, self._response_mode)
        actions = self._answer.body(event, told=not self._ended)
        if event.end_of_stream:
            self._end("complete")
        return actions

    def _end(self, cause: EndCause) -> None:
        exchange = self._exchange
        if exchange is not None and not self._ended:
            self._ended = True
            try:
                exchange.end(cause)
            except Exception as error:  # noqa: BLE001 - an answer on its way is worth more than our books
                self._on_error(error)


def _unseen(head: RequestHead) -> RequestHead:
    return msgspec.structs.replace(head, body_unseen=True)


def _headers_of(decision: RoutingDecision) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in decision.headers.items() if name != wire.DESTINATION)


def _abandon(pending: Pending) -> None:
    """End an exchange that was made when its client had left."""
    try:
        exchange = pending.result()
    except BaseException:  # noqa: BLE001 - refused or cancelled, in whatever way: there is nobody to tell
        return
    exchange.end("client-abort")
