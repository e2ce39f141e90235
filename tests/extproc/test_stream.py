"""The state machine of one request, mode by mode, with a decider made of strings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec
import pytest

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.record import DecisionRecord
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.errors import (
    AdmissionDeniedError,
    BadRequestError,
    ForbiddenError,
    NoEndpointsError,
    PluginError,
    RequestError,
    SaturatedError,
    ShuttingDownError,
)
from pointsman.extproc.stream import CHUNK_BYTES, DROP_REASON, Limits, Stream, refusal
from pointsman.extproc.wire import (
    DESTINATION,
    Action,
    BodyMode,
    Chunk,
    Continue,
    Event,
    Immediate,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Route,
)

A = Endpoint(EndpointId("ns/a"), "10.0.0.1", 8000)
B = Endpoint(EndpointId("ns/b"), "10.0.0.2", 8000)
DEST = "10.0.0.1:8000,10.0.0.2:8000"
RECORD = DecisionRecord(
    request_id="r",
    time=0,
    model="m",
    prompt_tokens=1,
    profile="p",
    unit="score",
    chosen="a",
    hostport="",
    destination="",
)
NONE, BUFFERED, FDS = BodyMode.NONE, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED


class BrokenBook(list[tuple[object, ...]]):
    def append(self, item: tuple[object, ...]) -> None:
        raise ValueError(item)


class FakeExchange:
    def __init__(self, decision: RoutingDecision, observe: bool) -> None:
        self.decision, self.observe_body = decision, observe
        self.calls: list[tuple[object, ...]] = []

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        self.calls.append(("headers", status, event_stream))

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        self.calls.append(("body", chunk, last))

    def end(self, cause: EndCause) -> None:
        self.calls.append(("end", cause))


class FakeDecider:
    def __init__(
        self,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        observe: bool = False,
        error: Exception | None = None,
    ) -> None:
        request = InferenceRequest(id="r", model="m")
        self.decision = RoutingDecision(request, (A, B), RECORD, headers or {}, body)
        self.observe, self.error = observe, error
        self.bodies: list[bytes] = []
        self.exchanges: list[FakeExchange] = []

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> FakeExchange:
        assert received == 12.5
        self.bodies.append(body)
        if self.error is not None:
            raise self.error
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


def head(
    request: BodyMode | None = BUFFERED, response: BodyMode | None = NONE, *, eos: bool = False, **headers: str
) -> RequestHeaders:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestHeaders(RequestHead({":method": "POST", ":path": "/v1/x", **named}), eos, request, response)


def answer(status: int = 200, kind: str = "application/json", *, eos: bool = False) -> ResponseHeaders:
    return ResponseHeaders({":status": str(status), "content-type": kind}, eos)


def play(stream: Stream, *events: Event) -> list[Sequence[Action]]:
    return [stream.feed(event) for event in events]


big = b"0123456789" * 20_000
big_chunks = [Chunk(big[i : i + CHUNK_BYTES], i + CHUNK_BYTES >= len(big)) for i in range(0, len(big), CHUNK_BYTES)]
go_head, go_body, go_trailers = Continue("request_headers"), Continue("request_body"), Continue("request_trailers")

REQUESTS: dict[str, tuple[list[Event], list[list[Action]], bytes]] = {
    "buffered": (
        [head(), RequestBody(b"{}", end_of_stream=True)],
        [[go_head], [Route("request_body", DEST)]],
        b"{}",
    ),
    "buffered, body ended by trailers": (
        [head(), RequestBody(b"{}"), RequestTrailers()],
        [[go_head], [Route("request_body", DEST)], [go_trailers]],
        b"{}",
    ),
    "buffered, trailers without a body": (
        [head(), RequestTrailers()],
        [[go_head], [Route("request_trailers", DEST)]],
        b"",
    ),
    "buffered, a second body message": (
        [head(), RequestBody(b"{}"), RequestBody(b"", end_of_stream=True)],
        [[go_head], [Route("request_body", DEST)], [go_body]],
        b"{}",
    ),
    "buffered partial, all of it": (
        [head(BodyMode.BUFFERED_PARTIAL), RequestBody(b"{}", end_of_stream=True)],
        [[go_head], [Route("request_body", DEST)]],
        b"{}",
    ),
    "GET, buffered": ([head(eos=True)], [[Route("request_headers", DEST)]], b""),
    "GET, full duplex": ([head(FDS, FDS, eos=True)], [[Route("request_headers", DEST)]], b""),
    "mode NONE, body unseen": ([head(NONE)], [[Route("request_headers", DEST)]], b""),
    "full duplex, one message": (
        [head(FDS), RequestBody(b"{}", end_of_stream=True)],
        [[], [Route("request_headers", DEST), Chunk(b"{}", end_of_stream=True)]],
        b"{}",
    ),
    "full duplex, ended by an empty message": (
        [head(FDS), RequestBody(b"{"), RequestBody(b"}"), RequestBody(b"", end_of_stream=True)],
        [[], [], [], [Route("request_headers", DEST), Chunk(b"{}", end_of_stream=True)]],
        b"{}",
    ),
    "full duplex, empty body": (
        [head(FDS), RequestBody(b"", end_of_stream=True)],
        [[], [Route("request_headers", DEST), Chunk(b"", end_of_stream=True)]],
        b"",
    ),
    "full duplex, large": (
        [head(FDS), RequestBody(big, end_of_stream=True)],
        [[], [Route("request_headers", DEST), *big_chunks]],
        big,
    ),
    "full duplex, ended by trailers": (
        [head(FDS), RequestBody(b"{}"), RequestTrailers()],
        [[], [], [Route("request_headers", DEST), Chunk(b"{}", end_of_stream=False), go_trailers]],
        b"{}",
    ),
    "full duplex, trailers only": (
        [head(FDS), RequestTrailers()],
        [[], [Route("request_headers", DEST), go_trailers]],
        b"",
    ),
    "modes not told: the contract's full duplex": (
        [head(None, None), RequestBody(b"{}", end_of_stream=True)],
        [[], [Route("request_headers", DEST), Chunk(b"{}", end_of_stream=True)]],
        b"{}",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_side(name: str) -> None:
    events, replies, body = REQUESTS[name]
    decider = FakeDecider()
    assert play(stream_of(decider), *events) == replies
    assert decider.bodies == [body]


def test_headers_of_the_decision_follow_the_pick_and_never_contradict_it() -> None:
    decider = FakeDecider(headers={"x-model": "m", DESTINATION: "1.1.1.1:1"})
    _, [route] = play(stream_of(decider), head(), RequestBody(b"{}", end_of_stream=True))
    assert route == Route("request_body", DEST, (("x-model", "m"),))


@pytest.mark.parametrize("mode", [BUFFERED, FDS])
def test_changed_body_carries_its_length(mode: BodyMode) -> None:
    decider = FakeDecider(body=b"changed")
    _, actions = play(stream_of(decider), head(mode), RequestBody(b"{}", end_of_stream=True))
    length = (("content-length", "7"),)
    if mode == BUFFERED:
        assert actions == [Route("request_body", DEST, length, b"changed")]
    else:
        assert actions == [Route("request_headers", DEST, length), Chunk(b"changed", end_of_stream=True)]


# Response


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
    assert decider.bodies == []


# Refusals


@pytest.mark.parametrize(
    ("error", "status", "code", "drop", "kind"),
    [
        (BadRequestError("no model"), 400, "BadRequest", None, "invalid_request_error"),
        (NoEndpointsError("none"), 503, "ServiceUnavailable", "rejected-no-endpoints", "server_error"),
        (SaturatedError("full"), 429, "ResourceExhausted", "rejected-saturated", "rate_limit_error"),
        (AdmissionDeniedError("later"), 429, "AdmissionDenied", "rejected-saturated", "rate_limit_error"),
        (ForbiddenError("never"), 403, "Forbidden", None, "permission_error"),
        (ShuttingDownError("bye"), 503, "ServiceUnavailable", "rejected-shutting-down", "server_error"),
    ],
)
def test_refusal(error: RequestError, status: int, code: str, drop: str | None, kind: str) -> None:
    result = refusal(error)
    assert result.status == status
    headers = {"content-type": "application/json"} | ({DROP_REASON: drop} if drop else {})
    assert dict(result.headers) == headers
    expected = {"message": f"inference error: {code} - {error}", "type": kind, "code": status}
    assert json.loads(result.body) == {"error": expected}
    assert result.details == f"pointsman_{error.reason}"


@pytest.mark.parametrize("error", [KeyError("secret"), PluginError("secret"), ZeroDivisionError("secret")])
def test_unexpected_failures_are_logged_not_shown(error: Exception) -> None:
    seen: list[Exception] = []
    stream = stream_of(FakeDecider(error=error), on_error=seen.append)
    _, [result] = play(stream, head(), RequestBody(b"{}", end_of_stream=True))
    assert isinstance(result, Immediate)
    assert result.status == 500
    assert b"inference error: Internal - " in result.body
    assert b"secret" not in result.body
    assert seen == [error]


@pytest.mark.parametrize("mode", [BUFFERED, FDS])
def test_after_a_refusal_nothing_follows(mode: BodyMode) -> None:
    stream = stream_of(FakeDecider(error=SaturatedError("full")))
    _, [result] = play(stream, head(mode), RequestBody(b"{}", end_of_stream=True))
    assert isinstance(result, Immediate)
    assert stream.done
    assert play(stream, answer(), ResponseBody(b"x", end_of_stream=True)) == [[], []]
    stream.close()


@pytest.mark.parametrize("mode", [BUFFERED, FDS])
def test_too_large_bodies(mode: BodyMode) -> None:
    for events in (
        [head(mode, content_length="11")],
        [head(mode), RequestBody(b"x" * 11)],
        [head(mode, content_length="11x"), RequestBody(b"x" * 11)],
    ):
        decider = FakeDecider()
        [result] = play(stream_of(decider, Limits(max_body_bytes=10)), *events)[-1]
        assert isinstance(result, Immediate)
        assert result.status == 413
        assert decider.bodies == []


def test_streamed_bodies_are_bounded_in_sum() -> None:
    stream = stream_of(FakeDecider(), Limits(max_body_bytes=10))
    *quiet, [result] = play(stream, head(FDS), RequestBody(b"x" * 6), RequestBody(b"x" * 6))
    assert quiet == [[], []]
    assert isinstance(result, Immediate)
    assert result.status == 413


def test_truncated_partial_body_is_refused() -> None:
    _, [result] = play(stream_of(FakeDecider()), head(BodyMode.BUFFERED_PARTIAL), RequestBody(b"{"))
    assert isinstance(result, Immediate)
    assert result.status == 413


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.GRPC])
def test_racy_modes_are_refused_by_name(mode: BodyMode) -> None:
    [[result]] = play(stream_of(FakeDecider()), head(mode))
    assert isinstance(result, Immediate)
    assert result.status == 500
    assert mode.name.encode() in result.body


def test_disorder_gets_legal_answers() -> None:
    seen: list[Exception] = []
    [[result]] = play(stream_of(FakeDecider(), on_error=seen.append), RequestBody(b"x", end_of_stream=True))
    assert isinstance(result, Immediate)
    assert result.status == 500
    assert len(seen) == 1
    assert play(stream_of(FakeDecider()), RequestTrailers()) == [[go_trailers]]
    twice = play(stream_of(FakeDecider()), head(), head())
    assert twice == [[go_head], [go_head]]


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
