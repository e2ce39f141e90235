"""The state machine of one request whose decision comes later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.extproc.test_stream_answers import POD, RECORD, FakeExchange

from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import RoutingDecision
from pointsman.errors import SaturatedError
from pointsman.extproc.stream import Limits, Stream
from pointsman.extproc.wire import (
    Action,
    BodyMode,
    Chunk,
    Continue,
    Event,
    Immediate,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    Route,
)
from pointsman.requestcontrol.exchange import Exchange

BUFFERED, STREAMED, FDS = BodyMode.BUFFERED, BodyMode.STREAMED, BodyMode.FULL_DUPLEX_STREAMED
DECISION = RoutingDecision(InferenceRequest(id="r", model="m"), (POD,), RECORD)
DEST = POD.hostport


class Later:
    """A pending decision in a test's hands."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], object]] = []
        self.answer: Exchange | Exception | None = None
        self.cancelled = False

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        self.callbacks.append(fn)

    def result(self) -> Exchange:
        assert self.answer is not None
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def cancel(self) -> None:
        self.cancelled = True

    def resolve(self, answer: Exchange | Exception) -> None:
        self.answer = answer
        for callback in self.callbacks:
            callback(self)


class Scene:
    """One stream and its pending decision."""

    def __init__(self, mode: BodyMode, *events: Event, eos: bool = False) -> None:
        self.later, self.sent = Later(), list[Action]()
        self.errors: list[Exception] = []
        self.stream = Stream(self, Limits(max_body_bytes=10), on_error=self.errors.append, emit=self.sent.extend)
        head = RequestHead({":method": "POST", ":path": "/v1/x"})
        self.stream.feed(RequestHeaders(head, eos, mode, BodyMode.NONE))
        for event in events:
            assert self.stream.feed(event) == []
        self.exchange = FakeExchange(DECISION, observe=False)

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Later:
        return self.later

    def resolve(self) -> list[Action]:
        self.later.resolve(self.exchange)
        return self.sent


LAST = RequestBody(b"{}", end_of_stream=True)


@pytest.mark.parametrize(
    ("mode", "events", "sent"),
    [
        (BUFFERED, [LAST], [Route("request_body", DEST)]),
        (FDS, [LAST], [Route("request_headers", DEST), Chunk(b"{}", end_of_stream=True)]),
        (STREAMED, [], [Route("request_headers", DEST)]),
        (
            STREAMED,
            [RequestBody(b"{"), RequestBody(b"}"), RequestTrailers()],
            [
                Route("request_headers", DEST),
                Continue("request_body"),
                Continue("request_body"),
                Continue("request_trailers"),
            ],
        ),
        (
            BUFFERED,
            [RequestBody(b"{}"), RequestTrailers()],
            [Route("request_body", DEST), Continue("request_trailers")],
        ),
    ],
)
def test_replies_come_with_the_decision(mode: BodyMode, events: list[Event], sent: list[Action]) -> None:
    scene = Scene(mode, *events)
    assert scene.sent == []
    assert scene.resolve() == sent
    assert scene.stream.feed(ResponseHeaders({":status": "200"})) == [Continue("response_headers")]
    scene.stream.close()
    assert scene.exchange.calls[-1] == ("end", "complete")
    assert not scene.later.cancelled


def test_a_get_may_wait_too() -> None:
    assert Scene(BUFFERED, eos=True).resolve() == [Route("request_headers", DEST)]


@pytest.mark.parametrize(("error", "status"), [(SaturatedError("full"), 429), (KeyError("secret"), 500)])
def test_a_late_refusal(error: Exception, status: int) -> None:
    scene = Scene(BUFFERED, RequestBody(b"{}"), RequestTrailers())
    scene.later.resolve(error)
    [refused] = scene.sent
    assert isinstance(refused, Immediate)
    assert refused.status == status
    assert scene.stream.done
    assert scene.errors == ([error] if status == 500 else [])


@pytest.mark.parametrize("shutdown", [True, False])
def test_a_client_that_leaves_cancels(shutdown: bool) -> None:
    scene = Scene(BUFFERED, LAST)
    scene.stream.close(shutdown=shutdown)
    assert scene.later.cancelled
    scene.stream.close()
    # it was too late to cancel: what was reserved is released, and nothing is sent
    assert scene.resolve() == []
    assert scene.exchange.calls == [("end", "client-abort")]


def test_a_cancelled_decision_that_refuses_is_nobodys_business() -> None:
    scene = Scene(BUFFERED, LAST)
    scene.stream.close()
    scene.later.resolve(SaturatedError("full"))
    assert scene.sent == []


def test_the_proxys_own_answer_ends_the_wait() -> None:
    scene = Scene(STREAMED, RequestBody(b"x"))
    assert scene.stream.feed(ResponseHeaders({":status": "504"})) == [Continue("response_headers")]
    assert scene.later.cancelled
    assert scene.resolve() == []
    assert scene.exchange.calls == [("end", "client-abort")]


def test_what_waits_is_bounded() -> None:
    scene = Scene(STREAMED, RequestBody(b"x" * 6))
    [refused] = scene.stream.feed(RequestBody(b"x" * 6))
    assert isinstance(refused, Immediate)
    assert refused.status == 413
    assert scene.later.cancelled


def test_a_future_is_a_pending_decision() -> None:
    async def main() -> tuple[list[Action], bool]:
        loop = asyncio.get_running_loop()
        sent: list[Action] = []
        futures: list[asyncio.Future[Exchange]] = []

        class Decider:
            def decide(self, head: RequestHead, body: bytes, *, received: float) -> asyncio.Future[Exchange]:
                futures.append(loop.create_future())
                return futures[-1]

        for _ in range(2):
            stream = Stream(Decider(), emit=sent.extend)
            stream.feed(RequestHeaders(RequestHead({}), True, BUFFERED, BodyMode.NONE))
        stream.close()
        futures[0].set_result(FakeExchange(DECISION, observe=False))
        await asyncio.sleep(0)
        return sent, futures[1].cancelled()

    assert asyncio.run(main()) == ([Route("request_headers", DEST)], True)
