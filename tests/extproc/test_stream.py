"""The state machine of one request, mode by mode, with a decider made of strings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pointsman.api.endpoint import Endpoint, EndpointId
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
from pointsman.extproc.bodies import CHUNK_BYTES
from pointsman.extproc.refusals import DROP_REASON, refusal
from pointsman.extproc.stream import Limits, Stream
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
    Route,
)

A = Endpoint(EndpointId("ns/a"), "10.0.0.1", 8000)
B = Endpoint(EndpointId("ns/b"), "10.0.0.2", 8000)
DEST = "10.0.0.1:8000,10.0.0.2:8000"
RECORD: Any = None  # a transport never looks at it
NONE, BUFFERED, FDS = BodyMode.NONE, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED


class FakeExchange:
    observe_body = False

    def __init__(self, decision: RoutingDecision) -> None:
        self.decision = decision

    def served(self, hostport: str) -> None:
        pass

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        pass

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        pass

    def end(self, cause: EndCause) -> None:
        pass


class FakeDecider:
    def __init__(
        self, *, body: bytes | None = None, headers: dict[str, str] | None = None, error: Exception | None = None
    ) -> None:
        request = InferenceRequest(id="r", model="m")
        self.decision = RoutingDecision(request, (A, B), RECORD, headers or {}, body)
        self.error = error
        self.bodies: list[bytes] = []
        self.heads: list[RequestHead] = []

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> FakeExchange:
        assert received == 12.5
        self.bodies.append(body)
        self.heads.append(head)
        if self.error is not None:
            raise self.error
        return FakeExchange(self.decision)


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
    "STREAMED, trailers": (
        [head(BodyMode.STREAMED), RequestBody(b"{"), RequestBody(b"}"), RequestTrailers()],
        [[Route("request_headers", DEST)], [go_body], [go_body], [go_trailers]],
        b"",
    ),
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


@pytest.mark.parametrize(
    ("events", "unseen"),
    [
        ([head(eos=True)], False),
        ([head(BodyMode.STREAMED, eos=True)], False),
        ([head(BodyMode.STREAMED)], True),
        ([head(NONE)], True),
        ([head(BodyMode.BUFFERED_PARTIAL), RequestBody(b"{")], True),
        ([head(BodyMode.BUFFERED_PARTIAL), RequestBody(b"{}", end_of_stream=True)], False),
    ],
)
def test_the_decider_knows_of_bodies_it_is_not_shown(events: list[Event], unseen: bool) -> None:
    decider = FakeDecider()
    stream = stream_of(decider)
    assert isinstance(play(stream, *events)[-1][0], Route)
    [seen] = decider.heads
    assert seen.body_unseen == unseen
    assert stream.feed(RequestBody(b"more", end_of_stream=True)) == [go_body]


def test_mode_grpc_is_refused_by_name() -> None:
    [[result]] = play(stream_of(FakeDecider()), head(BodyMode.GRPC))
    assert isinstance(result, Immediate)
    assert result.status == 500
    assert b"GRPC" in result.body


@pytest.mark.parametrize("mode", [NONE, BUFFERED, FDS, BodyMode.STREAMED])
def test_a_get_can_be_refused_at_its_head(mode: BodyMode) -> None:
    [[result]] = play(stream_of(FakeDecider(error=AdmissionDeniedError("later"))), head(mode, eos=True))
    assert isinstance(result, Immediate)
    assert result.status == 429


def test_disorder_gets_legal_answers() -> None:
    seen: list[Exception] = []
    [[result]] = play(stream_of(FakeDecider(), on_error=seen.append), RequestBody(b"x", end_of_stream=True))
    assert isinstance(result, Immediate)
    assert result.status == 500
    assert len(seen) == 1
    assert play(stream_of(FakeDecider()), RequestTrailers()) == [[go_trailers]]
    twice = play(stream_of(FakeDecider()), head(), head())
    assert twice == [[go_head], [go_head]]
