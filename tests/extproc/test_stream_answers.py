"""The state machine of one request: how answers pass, and how the exchange hears of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.extproc.bodies import CHUNK_BYTES
from pointsman.extproc.stream import Limits, Stream
from pointsman.extproc.wire import (
    Action,
    BodyMode,
    Chunk,
    Continue,
    Event,
    Replace,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)

POD = Endpoint(EndpointId("ns/a"), "10.0.0.1", 8000)
RECORD: Any = None  # a transport never looks at it
NONE, BUFFERED, FDS = BodyMode.NONE, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED


class BrokenBook(list[tuple[object, ...]]):
    def append(self, item: tuple[object, ...]) -> None:
        raise ValueError(item)


class FakeExchange:
    def __init__(self, decision: RoutingDecision, observe: bool) -> None:
        self.decision, self.observe_body = decision, observe
        self.calls: list[tuple[object, ...]] = []

    def served(self, hostport: str) -> None:
        self.calls.append(("served", hostport))

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        self.calls.append(("headers", status, event_stream))

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        self.calls.append(("body", chunk, last))

    def end(self, cause: EndCause) -> None:
        self.calls.append(("end", cause))


class FakeDecider:
    def __init__(self, *, observe: bool = False) -> None:
        self.decision = RoutingDecision(InferenceRequest(id="r", model="m"), (POD,), RECORD)
        self.observe = observe
        self.exchanges: list[FakeExchange] = []

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> FakeExchange:
        self.exchanges.append(FakeExchange(self.decision, self.observe))
        return self.exchanges[-1]

    @property
    def calls(self) -> list[tuple[object, ...]]:
        return self.exchanges[0].calls


def stream_of(
    decider: FakeDecider, limits: Limits | None = None, on_error: Callable[[Exception], None] | None = None
) -> Stream:
    return Stream(decider, limits or Limits(), on_error=on_error or _no_error, timer=lambda: 12.5)


def _no_error(error: Exception) -> None:
    raise AssertionError(f"unexpected {error!r}")


def head(request: BodyMode = BUFFERED, response: BodyMode = NONE) -> RequestHeaders:
    return RequestHeaders(RequestHead({":method": "POST", ":path": "/v1/x"}), False, request, response)


def answer(status: int = 200, kind: str = "application/json", *, eos: bool = False) -> ResponseHeaders:
    return ResponseHeaders({":status": str(status), "content-type": kind}, eos)


def play(stream: Stream, *events: Event) -> list[Sequence[Action]]:
    return [stream.feed(event) for event in events]


big = b"0123456789" * 20_000
big_chunks = [Chunk(big[i : i + CHUNK_BYTES], i + CHUNK_BYTES >= len(big)) for i in range(0, len(big), CHUNK_BYTES)]


def routed(decider: FakeDecider, mode: BodyMode = BUFFERED, response: BodyMode = NONE, **limits: bool) -> Stream:
    stream = stream_of(decider, msgspec.structs.replace(Limits(), **limits))
    play(stream, head(mode, response), RequestBody(b"{}", end_of_stream=True))
    return stream


def test_lean_mode_ends_complete_when_the_proxy_closes() -> None:
    decider = FakeDecider()
    stream = routed(decider)
    assert stream.feed(answer(kind="text/event-stream; charset=utf-8")) == [Continue("response_headers")]
    stream.close()
    stream.close()
    assert decider.calls == [("headers", 200, True), ("end", "complete")]


def test_answer_without_body_ends_at_its_head() -> None:
    decider = FakeDecider()
    stream = routed(decider)
    stream.feed(answer(503, eos=True))
    stream.close()
    assert decider.calls == [("headers", 503, False), ("end", "complete")]


@pytest.mark.parametrize(
    ("shutdown", "events", "cause"),
    [
        (False, [], "client-abort"),
        (True, [], "error"),
        (False, [answer()], "complete"),
        (True, [answer()], "error"),
        (False, [answer(), ResponseBody(b"a")], "client-abort"),
        (False, [answer(), ResponseBody(b"a", end_of_stream=True)], "complete"),
        (True, [answer(), ResponseBody(b"a", end_of_stream=True)], "complete"),
        (False, [answer(), ResponseBody(b"a"), ResponseTrailers()], "complete"),
    ],
)
def test_end_is_told_once(shutdown: bool, events: list[Event], cause: str) -> None:
    decider = FakeDecider()
    stream = routed(decider, response=BodyMode.STREAMED)
    play(stream, *events)
    stream.close(shutdown=shutdown)
    stream.close()
    assert [call for call in decider.calls if call[0] == "end"] == [("end", cause)]


def test_observed_exchange_asks_for_the_body() -> None:
    decider = FakeDecider(observe=True)
    stream = routed(decider)
    assert stream.feed(answer()) == [Continue("response_headers", BodyMode.STREAMED)]
    assert stream.feed(ResponseBody(b"one")) == [Continue("response_body")]
    assert stream.feed(ResponseBody(b"", end_of_stream=True)) == [Continue("response_body")]
    assert decider.calls[1:] == [("body", b"one", False), ("body", b"", True), ("end", "complete")]


@pytest.mark.parametrize(
    ("mode", "response", "status", "eos", "allow"),
    [
        (BUFFERED, NONE, 200, False, False),
        (BUFFERED, NONE, 500, False, True),
        (BUFFERED, NONE, 200, True, True),
        (BUFFERED, BodyMode.STREAMED, 200, False, True),
        (FDS, NONE, 200, False, True),
        (FDS, FDS, 200, False, True),
    ],
)
def test_body_is_not_asked_for_in_vain(mode: BodyMode, response: BodyMode, status: int, eos: bool, allow: bool) -> None:
    stream = routed(FakeDecider(observe=True), mode, response, allow_mode_override=allow)
    assert stream.feed(answer(status, eos=eos)) == [Continue("response_headers")]


def test_full_duplex_answers_are_echoed() -> None:
    decider = FakeDecider()
    stream = routed(decider, FDS, FDS)
    assert stream.feed(answer()) == [Continue("response_headers")]
    assert stream.feed(ResponseBody(b"data: 1")) == [Chunk(b"data: 1", end_of_stream=False, response=True)]
    pieces = stream.feed(ResponseBody(big, end_of_stream=True))
    assert pieces == [msgspec.structs.replace(chunk, response=True) for chunk in big_chunks]
    assert decider.calls[-1] == ("end", "complete")


def test_full_duplex_answer_with_trailers() -> None:
    stream = routed(FakeDecider(), FDS, FDS)
    replies = play(stream, answer(), ResponseBody(b"x"), ResponseTrailers())
    assert replies[1:] == [[Chunk(b"x", end_of_stream=False, response=True)], [Continue("response_trailers")]]


def test_proxys_own_answer_before_a_decision() -> None:
    decider = FakeDecider()
    stream = stream_of(decider)
    replies = play(stream, head(FDS, FDS), answer(408), ResponseBody(b"late", end_of_stream=True))
    assert replies == [
        [],
        [Continue("response_headers")],
        [Chunk(b"late", end_of_stream=True, response=True)],
    ]
    stream.close()
    assert decider.exchanges == []


def test_an_exchange_that_raises_does_not_hurt_the_answer() -> None:
    seen: list[Exception] = []
    decider = FakeDecider()
    stream = stream_of(decider, on_error=seen.append)
    play(stream, head(), RequestBody(b"{}", end_of_stream=True))

    decider.exchanges[0].calls = BrokenBook()
    assert stream.feed(answer()) == [Continue("response_headers")]
    assert len(seen) == 1


def test_failure_amid_the_answer_ends_the_stream_silently() -> None:
    seen: list[Exception] = []
    decider = FakeDecider()
    stream = stream_of(decider, on_error=seen.append)
    play(stream, head(), RequestBody(b"{}", end_of_stream=True), answer())
    assert stream.fail(ValueError("garbage")) == []
    assert stream.done
    assert decider.calls[-1] == ("end", "error")


# ---- who served, headers on the answer


def test_who_served_is_told_before_the_head() -> None:
    decider = FakeDecider()
    stream = routed(decider)
    stream.feed(ResponseHeaders({":status": "200"}, served="10.0.0.2:8000"))
    assert decider.calls == [("served", "10.0.0.2:8000"), ("headers", 200, False)]


def test_headers_that_the_decision_asks_for() -> None:
    decider = FakeDecider()
    decider.decision = msgspec.structs.replace(decider.decision, answer_headers=lambda served: {"x-served": served})
    told = ResponseHeaders({":status": "200"}, served="10.0.0.2:8000")
    expected = Continue("response_headers", None, (("x-served", "10.0.0.2:8000"),))
    assert routed(decider).feed(told) == [expected]
    assert routed(decider).feed(msgspec.structs.replace(told, end_of_stream=True)) == [expected]


def test_headers_that_fail_do_not_hurt_the_answer() -> None:
    seen: list[Exception] = []
    decider = FakeDecider()
    decider.decision = msgspec.structs.replace(decider.decision, answer_headers=lambda served: {"x": str(1 / 0)})
    stream = stream_of(decider, on_error=seen.append)
    play(stream, head(), RequestBody(b"{}", end_of_stream=True))
    assert stream.feed(answer()) == [Continue("response_headers")]
    assert len(seen) == 1


# ---- the model's name

STREAMED = BodyMode.STREAMED
SERVED_BODY, ASKED_BODY = b'{"id":1,"model":"target","x":2}', b'{"id":1,"model":"asked","x":2}'
LENGTH = {":status": "200", "content-type": "application/json", "content-length": "31"}


def renaming(*, observe: bool = False) -> FakeDecider:
    decider = FakeDecider(observe=observe)
    request = InferenceRequest(id="r", model="asked", target_model="target")
    decider.decision = msgspec.structs.replace(decider.decision, request=request)
    return decider


@pytest.mark.parametrize("mode", [BUFFERED, BodyMode.BUFFERED_PARTIAL, STREAMED])
def test_the_clients_name_comes_back(mode: BodyMode) -> None:
    stream = routed(renaming(), response=mode)
    assert stream.feed(ResponseHeaders(LENGTH)) == [Continue("response_headers", None, (), ("content-length",))]
    assert stream.feed(ResponseBody(SERVED_BODY, end_of_stream=True)) == [Replace(ASKED_BODY)]


@pytest.mark.parametrize("mode", [STREAMED, FDS])
def test_the_clients_name_comes_back_in_pieces(mode: BodyMode) -> None:
    for cut in range(len(SERVED_BODY) + 1):
        stream = routed(renaming(), mode if mode == FDS else BUFFERED, mode)
        out = b""
        events = [ResponseBody(SERVED_BODY[:cut]), ResponseBody(SERVED_BODY[cut:]), ResponseBody(b"", True)]
        for event, replies in zip(events, play(stream, ResponseHeaders(LENGTH), *events)[1:], strict=True):
            assert mode == FDS or len(replies) == 1
            for reply in replies:
                out += event.data if isinstance(reply, Continue) else reply.data  # type: ignore[union-attr]
        assert out == ASKED_BODY
        if mode == FDS:
            assert isinstance(reply, Chunk)
            assert reply.end_of_stream


def test_what_is_held_back_goes_out_before_the_trailers() -> None:
    stream = routed(renaming(), FDS, FDS)
    play(stream, ResponseHeaders(LENGTH), ResponseBody(b'x"mod'))
    assert stream.feed(ResponseTrailers()) == [
        Chunk(b'"mod', end_of_stream=False, response=True),
        Continue("response_trailers"),
    ]


@pytest.mark.parametrize("observe", [True, False])
@pytest.mark.parametrize("status", ["200", "404"])
def test_lean_mode_asks_for_the_body_of_a_renamed_model(observe: bool, status: str) -> None:
    stream = routed(renaming(observe=observe))
    told = ResponseHeaders(LENGTH | {":status": status})
    assert stream.feed(told) == [Continue("response_headers", STREAMED, (), ("content-length",))]
    assert stream.feed(ResponseBody(SERVED_BODY, end_of_stream=True)) == [Replace(ASKED_BODY)]


def test_the_servers_name_stays_where_the_body_is_not_to_be_had() -> None:
    go = [Continue("response_headers")]
    assert routed(renaming(), allow_mode_override=False).feed(ResponseHeaders(LENGTH)) == go
    assert routed(renaming(), FDS, NONE).feed(ResponseHeaders(LENGTH)) == go
    compressed = LENGTH | {"content-encoding": "gzip"}
    stream = routed(renaming(), response=STREAMED)
    assert stream.feed(ResponseHeaders(compressed)) == go
    assert stream.feed(ResponseBody(SERVED_BODY)) == [Continue("response_body")]
