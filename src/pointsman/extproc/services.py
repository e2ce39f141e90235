"""The gRPC services of the picker, on whatever carries their messages: ext-proc Process and gRPC health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from pointsman.extproc import health
from pointsman.extproc.fastcodec import decode_request, encode_response
from pointsman.extproc.grpc_framing import Status
from pointsman.extproc.stream import Limits, Stream
from pointsman.extproc.wire import Action
from pointsman.requestcontrol.exchange import Decider

_WATCH_SECONDS = 1.0
_HEALTH = "/grpc.health.v1.Health/"
PROCESS = f"/{health.EXTERNAL_PROCESSOR}/Process"


class Reply(Protocol):
    """The way back to the caller, good at any time until the call is over."""

    def send(self, data: bytes) -> bool:
        """Send a message; false when the call was cut off over it, which :meth:`Call.over` has then been told."""

    def finish(self, status: int = 0, text: str = "") -> None:
        """End the call with a status."""


class Call(Protocol):
    """The server's half of a call. Methods never raise."""

    def message(self, data: bytes) -> None:
        """A message came in."""

    def half_closed(self) -> None:
        """The caller sends no more, and waits for the rest of the answer."""

    def over(self, *, shutdown: bool = False) -> None:
        """The call has ended, for whatever reason. Comes exactly once; ``shutdown`` when we cut it off."""


Service: TypeAlias = Callable[[Reply], Call]


class ProcessCall:
    """One HTTP request as a proxy tells it, between the transport and its :class:`Stream`.

    Args:
        reply: the way back.
        decider: makes the decision, now or later.
        limits: what the stream accepts.
        on_error: told of every failure that is not a refusal.
    """

    __slots__ = ("_on_error", "_reply", "_stream")

    def __init__(self, reply: Reply, decider: Decider, limits: Limits, on_error: Callable[[Exception], None]) -> None:
        self._reply, self._on_error = reply, on_error
        self._stream: Stream | None = Stream(decider, limits, on_error=on_error, emit=self.emit)

    def message(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            return
        try:
            event = decode_request(data)
        except Exception as error:  # noqa: BLE001 - beside WireError: a slip of the codec must not cost the connection
            self.emit(stream.fail(error))
        else:
            self.emit(stream.feed(event))

    def emit(self, actions: Iterable[Action]) -> None:
        """Send replies, in order; the call ends when its stream is done.

        Answers that come later than the message they belong to, as of a pick that was queued, go out by this, too.
        """
        stream = self._stream
        if stream is None:
            return
        try:
            for action in actions:
                if not self._reply.send(encode_response(action)):
                    return
        except Exception as error:  # noqa: BLE001 - a transport that fails under one request serves the next
            self._on_error(error)
            self._reply.finish(Status.INTERNAL, "the answer could not be written")
            return
        if stream.done:
            self._reply.finish()

    def half_closed(self) -> None:
        self._reply.finish()

    def over(self, *, shutdown: bool = False) -> None:
        # stream and call know each other; a request must not leave a cycle for the collector
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(shutdown=shutdown)


class _HealthCall:
    """A call with one message in: Check, List and Watch."""

    def __init__(self, reply: Reply, book: health.HealthBook) -> None:
        self._reply, self._book = reply, book
        self._request: bytes | None = None

    def message(self, data: bytes) -> None:
        self._request = data

    def half_closed(self) -> None:
        if self._request is None:
            self._reply.finish(Status.INTERNAL, "a request is missing")
            return
        try:
            self._answer(self._request)
        except Exception:  # noqa: BLE001 - the message classes are an affair of the health book; what is unreadable is
            self._reply.finish(Status.INVALID_ARGUMENT, "the request cannot be read")

    def over(self, *, shutdown: bool = False) -> None:
        pass

    def _answer(self, request: bytes) -> None:
        raise NotImplementedError


class _Check(_HealthCall):
    def _answer(self, request: bytes) -> None:
        status = self._book.status(service := health.service_of(request))
        if status == health.SERVICE_UNKNOWN:
            self._reply.finish(Status.NOT_FOUND, f"no service {service!r}")
        else:
            self._reply.send(health.status_reply(status))
            self._reply.finish()


class _List(_HealthCall):
    def _answer(self, request: bytes) -> None:
        self._reply.send(self._book.list())
        self._reply.finish()


class _Watch(_HealthCall):
    _told: object = None
    _timer: asyncio.TimerHandle | None = None

    def _answer(self, request: bytes) -> None:
        self._look(health.service_of(request))

    def _look(self, service: str) -> None:
        status = self._book.status(service)
        if status != self._told:
            self._told = status
            if not self._reply.send(health.status_reply(status)):
                return
        self._timer = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._look, service)

    def over(self, *, shutdown: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()


def health_services(book: health.HealthBook) -> dict[str, Service]:
    """Calls of grpc.health.v1 by path."""
    return {
        f"{_HEALTH}Check": lambda reply: _Check(reply, book),
        f"{_HEALTH}List": lambda reply: _List(reply, book),
        f"{_HEALTH}Watch": lambda reply: _Watch(reply, book),
    }


def process_service(decider: Decider, limits: Limits, on_error: Callable[[Exception], None]) -> dict[str, Service]:
    """The external processor by path."""

    def process(reply: Reply) -> ProcessCall:
        return ProcessCall(reply, decider, limits, on_error)

    return {PROCESS: process}
