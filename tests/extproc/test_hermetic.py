"""llm-d's hermetic cases: real plans behind the stream core, bytes in and bytes out, through both codecs.

docs/contract.md lists the cases one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.builders import make_endpoint
from tests.requestcontrol.parsers.test_parsers import EMBED, GENERATE, field, framed, varint
from tests.requestcontrol.rig import CHAT, Rig, write_config

from pointsman.api.endpoint import Endpoint, LoraState
from pointsman.api.request import RequestHead
from pointsman.extproc import codec, fastcodec
from pointsman.extproc.refusals import DROP_REASON
from pointsman.extproc.stream import Stream
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
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Route,
)

FDS = BodyMode.FULL_DUPLEX_STREAMED
OK = {":status": "200", "content-type": "application/json", "content-length": "60"}
SSE = {":status": "200", "content-type": "text/event-stream"}
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PODS = [make_endpoint(1, waiting=3), make_endpoint(2, waiting=0), make_endpoint(3, waiting=10)]


class Talk:
    """One request between a proxy and the picker."""

    def __init__(self, codec_: ModuleType, rig: Rig) -> None:
        self.codec, self.rig = codec_, rig
        self.stream = Stream(rig.director)
        self.errors: list[Exception] = []

    def send(self, event: Event) -> list[Action]:
        actions = self.stream.feed(self.codec.decode_request(codec.encode_request(event)))
        return [codec.decode_response(self.codec.encode_response(action)) for action in actions]

    def ask(
        self,
        *pieces: bytes,
        path: str = CHAT,
        subset: tuple[str, ...] | None = None,
        mode: BodyMode = FDS,
        **headers: str,
    ) -> list[Action]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        head = RequestHead({":method": "POST" if pieces else "GET", ":path": path, **named}, subset)
        actions = self.send(RequestHeaders(head, not pieces, mode, mode))
        for i, piece in enumerate(pieces):
            actions += self.send(RequestBody(piece, end_of_stream=i == len(pieces) - 1))
        return actions


@pytest.fixture(params=[codec, fastcodec], ids=["protobuf", "fast"])
def codec_(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def talk(
    codec_: ModuleType,
    folder: Path,
    profile: Sequence[str | tuple[str, float]],
    pods: Sequence[Endpoint] = PODS,
    **more: Any,
) -> Talk:
    return Talk(codec_, Rig(write_config(folder, profile, **more), pods))


def body_of(actions: Sequence[Action]) -> bytes:
    assert isinstance(actions[-1], Chunk)
    assert actions[-1].end_of_stream
    return b"".join(action.data for action in actions if isinstance(action, Chunk))


def refused(actions: Sequence[Action], status: int, text: str) -> None:
    action = actions[-1]
    assert isinstance(action, Immediate)
    assert action.status == status
    assert text in json.loads(action.body)["error"]["message"]


def data(**more: Any) -> bytes:
    return json.dumps(HELLO | more).encode()


# ---- picks


def test_lower_queue_wins_and_the_bytes_go_on_as_they_came(codec_: ModuleType, tmp_path: Path) -> None:
    actions = talk(codec_, tmp_path, ["queue-scorer"]).ask(data(), x_request_id="abc")
    assert actions[0] == Route("request_headers", _order(2, 1, 3), (("x-request-id", "abc"),))
    assert body_of(actions) == data()


def _order(*slots: int) -> str:
    return ",".join(f"10.0.0.{slot}:8000" for slot in slots)


def first(actions: Sequence[Action]) -> str:
    assert isinstance(actions[0], Route), actions
    return actions[0].destination.partition(",")[0]


def test_lora_affinity_beats_lower_kv_use(codec_: ModuleType, tmp_path: Path) -> None:
    here, there = (LoraState(capacity=2, running=frozenset({name})) for name in ("other", "sql-lora"))
    pods = [make_endpoint(1, kv_usage=0.1, lora=here), make_endpoint(2, kv_usage=0.6, lora=there)]
    asked = talk(codec_, tmp_path, ["kv-cache-utilization-scorer", ("lora-affinity-scorer", 3.0)], pods)
    assert first(asked.ask(data(model="sql-lora"))) == "10.0.0.2:8000"
    assert first(Talk(codec_, asked.rig).ask(data())) == "10.0.0.1:8000"


def test_nothing_is_shed_by_default(codec_: ModuleType) -> None:
    pods = [make_endpoint(slot, waiting=1000, kv_usage=0.99) for slot in (1, 2)]
    for preset in ("default", "llm-d", "brief"):
        assert first(Talk(codec_, Rig(preset, pods)).ask(data()))


def test_other_paths_pass(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    actions = asked.ask(b"\x00 no JSON", path="/v1/audio", x_llm_d_inference_objective="gold")
    assert (first(actions), body_of(actions)) == ("10.0.0.2:8000", b"\x00 no JSON")


def test_a_body_in_pieces_with_another_model(codec_: ModuleType, tmp_path: Path) -> None:
    whole = data(extra="\u00e9 [{")
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    pieces = [whole[i : i + 9] for i in range(0, len(whole), 9)]
    actions = asked.ask(*pieces, b"", x_llm_d_model_name_rewrite="target", accept_encoding="gzip")
    changed = whole.replace(b'"m"', b'"target"')
    assert body_of(actions) == changed
    assert isinstance(actions[0], Route)
    assert ("content-length", str(len(changed))) in actions[0].set_headers
    assert actions[0].remove_headers == ("accept-encoding",)


def test_a_model_that_nobody_declared_passes(codec_: ModuleType, tmp_path: Path) -> None:
    actions = talk(codec_, tmp_path, ["queue-scorer"]).ask(data(model="never-heard-of"))
    assert first(actions)


def test_a_get_is_scheduled(codec_: ModuleType, tmp_path: Path) -> None:
    assert first(talk(codec_, tmp_path, ["queue-scorer"]).ask(path="/v1/models")) == "10.0.0.2:8000"


def test_request_trailers_are_answered(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    asked.send(RequestHeaders(RequestHead({":method": "POST", ":path": CHAT}), False, FDS, FDS))
    asked.send(RequestBody(data()))
    route, chunk, trailers = asked.send(RequestTrailers())
    assert isinstance(route, Route)
    assert chunk == Chunk(data(), end_of_stream=False)
    assert trailers == Continue("request_trailers")


# ---- refusals


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "inference error: BadRequest - the body is no valid JSON"),
        (b'{"messages":[]}', "inference error: BadRequest - "),
        (json.dumps({"messages": HELLO["messages"]}).encode(), "model not found in request body"),
    ],
)
@pytest.mark.parametrize("mode", [FDS, BodyMode.BUFFERED])
def test_bad_bodies(codec_: ModuleType, tmp_path: Path, body: bytes, text: str, mode: BodyMode) -> None:
    refused(talk(codec_, tmp_path, ["queue-scorer"]).ask(body, mode=mode), 400, text)


@pytest.mark.parametrize("pieces", [(), (data(),)], ids=["GET", "POST"])
def test_no_pods(codec_: ModuleType, tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    actions = talk(codec_, tmp_path, ["queue-scorer"], []).ask(*pieces)
    refused(actions, 503, "failed to find endpoint candidates for serving the request")
    assert isinstance(actions[-1], Immediate)
    assert dict(actions[-1].headers)[DROP_REASON] == "rejected-no-endpoints"


@pytest.mark.parametrize("pieces", [(), (data(),)], ids=["GET", "POST"])
@pytest.mark.parametrize(
    ("subset", "chosen"),
    [
        (("10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"), "10.0.0.2:8000"),
        (("10.0.0.1:8000", "10.0.0.3:8000"), "10.0.0.1:8000"),
        (("10.0.0.3", "192.0.2.1"), "10.0.0.3:8000"),
        (("192.0.2.1:8000",), None),
        ((), None),
    ],
)
def test_subsets(
    codec_: ModuleType, tmp_path: Path, pieces: tuple[bytes, ...], subset: tuple[str, ...], chosen: str | None
) -> None:
    actions = talk(codec_, tmp_path, ["queue-scorer"]).ask(*pieces, subset=subset)
    if chosen is None:
        refused(actions, 503, "failed to find endpoint candidates")
    else:
        assert first(actions) == chosen


# ---- answers


def test_the_name_comes_back_in_an_answer_of_several_pieces(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    asked.ask(data(), x_gateway_model_name_rewrite="target")
    assert asked.send(ResponseHeaders(OK)) == [Continue("response_headers", None, (), ("content-length",))]
    text = b'{"model":"target","usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
    actions = [action for at in range(0, len(text), 5) for action in asked.send(ResponseBody(text[at : at + 5]))]
    actions += asked.send(ResponseBody(b"", end_of_stream=True))
    assert body_of(actions) == text.replace(b'"target"', b'"m"')
    record = asked.rig.metrics.records.last(1)[0]
    assert (record.model, record.output_tokens, record.cause) == ("m", 2, "complete")


def test_an_answer_that_is_no_json_passes(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    asked.ask(data())
    asked.send(ResponseHeaders(OK))
    assert body_of(asked.send(ResponseBody(b"{no json", end_of_stream=True))) == b"{no json"


def test_usage_of_a_stream_is_found_wherever_it_is_cut(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    usage = b'data: {"usage":{"prompt_tokens":7,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}'
    text = b'data: {"choices":[]}\n\n' * 5 + usage + b"\n\ndata: [DONE]\n\n"
    for cut in range(0, len(text), 7):
        one = Talk(codec_, asked.rig)
        one.ask(data(stream=True))
        one.send(ResponseHeaders(SSE))
        actions = [*one.send(ResponseBody(text[:cut])), *one.send(ResponseBody(text[cut:], end_of_stream=True))]
        assert body_of(actions) == text
        record = asked.rig.metrics.records.last(1)[0]
        assert (record.output_tokens, record.cached_tokens) == (5, 4)


def test_an_empty_last_piece_and_trailers(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    assert body_of(asked.ask(data(), b"")) == data()
    asked.send(ResponseHeaders(SSE))
    asked.send(ResponseBody(b"x"))
    assert asked.send(ResponseTrailers()) == [Continue("response_trailers")]
    assert asked.rig.ledger.totals() == (0, 0)


def test_what_is_counted(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    asked.ask(data())
    assert asked.rig.count("requests_total", endpoint="default/pod-2") == 1
    assert asked.rig.count("requests_in_flight") == 1
    asked.send(ResponseHeaders({":status": "500"}, end_of_stream=True))
    assert asked.rig.count("request_outcomes_total", cause="complete", status="500") == 1
    assert asked.rig.count("requests_in_flight") == 0
    asked.stream.close()
    assert asked.rig.count("request_outcomes_total", cause="complete", status="500") == 1


# ---- vLLM gRPC

TOKENS = field(1, b"id") + field(2, field(2, b"".join(map(varint, range(1, 200)))))
STREAMING = framed(TOKENS + field(5, 1))
GRPC: dict[str, Any] = {"path": GENERATE, "content_type": "application/grpc"}


def test_grpc_is_picked_by_the_same_plugins(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    actions = asked.ask(STREAMING, **GRPC)
    assert (first(actions), body_of(actions)) == ("10.0.0.2:8000", STREAMING)
    record = asked.rig.metrics.records.last(1)[0]
    assert (record.prompt_tokens, record.model) == (199, "")
    embed = Talk(codec_, asked.rig).ask(framed(TOKENS), path=EMBED, content_type="application/grpc")
    assert first(embed) == "10.0.0.2:8000"
    subset = Talk(codec_, asked.rig).ask(STREAMING, subset=("10.0.0.3",), **GRPC)
    assert first(subset) == "10.0.0.3:8000"


def test_grpc_frames_that_are_split_and_answers_with_trailers(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    actions = asked.ask(*(STREAMING[at : at + 3] for at in range(0, len(STREAMING), 3)), b"", **GRPC)
    assert body_of(actions) == STREAMING
    asked.send(ResponseHeaders({":status": "200", "content-type": "application/grpc"}))
    assert asked.send(ResponseBody(b"\0\0\0\0\1x")) == [Chunk(b"\0\0\0\0\1x", end_of_stream=False, response=True)]
    assert asked.send(ResponseTrailers()) == [Continue("response_trailers")]
    assert asked.rig.ledger.totals() == (0, 0)


def test_grpc_refusals(codec_: ModuleType, tmp_path: Path) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    refused(asked.ask(b"no gRPC", **GRPC), 400, "no valid gRPC request")
    refused(talk(codec_, tmp_path, ["queue-scorer"], []).ask(STREAMING, **GRPC), 503, "failed to find endpoint")


# ---- bodies that are not shown


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.NONE])
def test_without_the_body_load_alone_decides(codec_: ModuleType, tmp_path: Path, mode: BodyMode) -> None:
    asked = talk(codec_, tmp_path, ["queue-scorer"])
    head = RequestHead({":method": "POST", ":path": CHAT})
    [route] = asked.send(RequestHeaders(head, False, mode, BodyMode.NONE))
    assert first([route]) == "10.0.0.2:8000"
    assert asked.send(RequestBody(data(), end_of_stream=True)) == [Continue("request_body")]
    assert asked.rig.count("degraded_total", kind="no-body") == 1
