"""Parsers beside OpenAI's four: what each understands, and who gets which path."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.errors import BadRequestError
from pointsman.requestcontrol.hints import Hints
from pointsman.requestcontrol.parsers import anthropic, body, grpc, openai, sglang, vllm
from pointsman.requestcontrol.parsers.registry import PARSERS, parse_request, parser_for

HI = {"role": "user", "content": "hi"}


def parse(path: str, data: Any, hints: Hints | None = None) -> InferenceRequest:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    head = RequestHead({":method": "POST", ":path": path})
    return parse_request(head, raw, request_id="r", arrival=0.0, hints=hints or Hints())


@pytest.mark.parametrize(
    ("path", "parser"),
    [
        ("/v1/chat/completions", openai.parse_chat),
        ("/v1/completions", openai.parse_completion),
        ("/v1/chat/completions/render", openai.parse_render),
        ("/v1/completions/render", openai.parse_render),
        ("/v1/responses", openai.parse_responses),
        ("/v1/conversations", openai.parse_conversation),
        ("/v1/images/generations", openai.parse_image),
        ("/v1/messages", anthropic.parse_messages),
        ("/v1/messages/count_tokens", anthropic.parse_count),
        ("/anthropic/v1/messages", anthropic.parse_messages),
        ("/inference/v1/generate", vllm.parse_generate),
        ("/generate", sglang.parse_generate),
        ("/vllm.grpc.engine.VllmEngine/Generate", grpc.parse_generate),
        ("/vllm.grpc.engine.VllmEngine/Embed", grpc.parse_embed),
        ("/vllm.grpc.engine.VllmEngine/HealthCheck", None),
        ("/threads/1/messages", None),
        ("/v1/models", None),
        ("/v1/audio/transcriptions", None),
        ("", None),
    ],
)
def test_the_longest_suffix_wins(path: str, parser: Any) -> None:
    assert parser_for(path) is parser


def test_a_body_that_is_not_shown_is_not_missed() -> None:
    head = RequestHead({":method": "POST", ":path": "/v1/chat/completions"}, body_unseen=True)
    request = parse_request(head, b"", request_id="r", arrival=0.0)
    assert (request.model, request.target_model, request.prompt_tokens) == ("", "", 0)


@pytest.mark.parametrize(
    ("path", "data", "model", "prompt", "ids", "max_tokens"),
    [
        ("/v1/messages", {"model": "m", "messages": [HI], "max_tokens": 5}, "m", b"user\x1fhi\x1e", None, 5),
        (
            "/v1/messages",
            {"model": "m", "messages": [HI], "system": "be kind", "tools": [{"name": "t"}]},
            "m",
            b'[{"name": "t"}]\x1ebe kind\x1euser\x1fhi\x1e',
            None,
            None,
        ),
        (
            "/v1/messages",
            {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "system": [1]},
            "m",
            b'[1]\x1euser\x1f[{"type":"text","text":"a"}]\x1e',
            None,
            None,
        ),
        ("/v1/messages/count_tokens", {"model": "m", "messages": [HI]}, "m", b"user\x1fhi\x1e", None, 0),
        ("/v1/chat/completions/render", {"model": "m", "messages": [HI]}, "m", b"user\x1fhi\x1e", None, 0),
        ("/v1/completions/render", {"model": "m", "prompt": "hi"}, "m", b"hi", None, 0),
        ("/v1/responses/render", {"model": "m", "input": "hi"}, "m", b"", None, 0),
        ("/v1/images/generations", {"model": "m", "prompt": "a cat"}, "m", b"a cat", None, 0),
        ("/v1/conversations", {"items": [HI]}, "", b'[{"role":"user","content":"hi"}]', None, 0),
        ("/v1/conversations", {}, "", b"", None, 0),
        ("/inference/v1/generate", {"token_ids": [1, 2]}, "", b"", (1, 2), None),
        (
            "/inference/v1/generate",
            {"model": "m", "token_ids": [7], "sampling_params": {"max_tokens": 9, "n": 2}},
            "m",
            b"",
            (7,),
            9,
        ),
        ("/inference/v1/generate", {"model": None, "token_ids": [7], "sampling_params": None}, "", b"", (7,), None),
        ("/generate", {"text": "hi", "sampling_params": {"max_new_tokens": 3}}, "", b"hi", None, 3),
        ("/generate", {"input_ids": [1, 2, 3]}, "", b"", (1, 2, 3), None),
        ("/generate", {"text": ["a", "b"], "sampling_params": [{}, {}]}, "", b'["a","b"]', None, None),
        ("/generate", {"input_embeds": [[0.5]]}, "", b"", None, None),
    ],
)
def test_what_is_understood(
    path: str, data: Any, model: str, prompt: bytes, ids: tuple[int, ...] | None, max_tokens: int | None
) -> None:
    request = parse(path, data)
    assert (request.model, request.target_model) == (model, model)
    assert (request.prompt, request.token_ids, request.max_tokens) == (prompt, ids, max_tokens)
    assert request.prompt_tokens == (len(ids) if ids else -(-len(prompt) // 4))
    assert parse(path, data | {"stream": True, "cache_salt": "s"}).stream


@pytest.mark.parametrize(
    ("path", "data", "text"),
    [
        ("/v1/messages", {"messages": [HI]}, "model not found"),
        ("/v1/messages", {"model": "m", "messages": []}, "messages"),
        ("/v1/messages", {"model": "m", "messages": [HI], "system": 5}, "system"),
        ("/v1/images/generations", {"prompt": "x"}, "model not found"),
        ("/inference/v1/generate", {"model": "m"}, "token_ids"),
        ("/inference/v1/generate", {"token_ids": []}, "token_ids"),
        ("/inference/v1/generate", {"token_ids": [-1]}, "token_ids"),
        ("/generate", {"input_ids": ["a", 1]}, "input_ids"),
        ("/generate", {"text": []}, "text"),
        ("/generate", b"{", "no valid JSON"),
    ],
)
def test_what_is_refused(path: str, data: Any, text: str) -> None:
    with pytest.raises(BadRequestError, match=text):
        parse(path, data)


# ---- rewriting


def test_a_rewrite_changes_the_target_and_not_the_model() -> None:
    request = parse("/v1/messages", {"model": "m", "messages": [HI]}, Hints(rewrite="other"))
    assert (request.model, request.target_model) == ("m", "other")
    assert parse("/v1/models", b"", Hints(rewrite="other")).target_model == ""


# ---- long bodies


def long_chat(path: str, content: Any, more: int = 0) -> tuple[InferenceRequest, bytes]:
    messages = [{"role": "system", "content": content}, *([HI] * more)]
    return parse(path, {"model": "m", "messages": messages}), body.conversation(
        (), [body.Message(m["role"], m["content"]) for m in messages]
    )


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "content",
    [
        "plain text " * 40_000,
        "plain text " * 400_000,
        'with "escapes"\n' * 400_000,
        "\N{GRINNING FACE}\N{LATIN SMALL LETTER E WITH ACUTE}" * 400_000,
        "\x00" * 2_000_000,
        [{"type": "text", "text": "block " * 100}] * 1000,
        None,
    ],
    ids=["short", "ascii", "escapes", "surrogates", "controls", "blocks", "none"],
)
def test_long_bodies_begin_like_all_others(path: str, content: Any) -> None:
    request, whole = long_chat(path, content, more=20_000)
    assert whole.startswith(request.prompt)
    assert len(request.prompt) >= min(len(whole), 600_000)
    assert len(whole) / 4 <= request.prompt_tokens <= len(whole) * 4


def test_a_conversation_that_grows_keeps_its_beginning_across_the_sizes() -> None:
    turns: list[dict[str, Any]] = []
    before = b""
    for size in (1000, 200_000, 100_000, 700_000, 3_000_000, 10):
        turns.append({"role": "user", "content": f"turn {len(turns)} \u00e9" * (size // 8)})
        prompt = parse("/v1/chat/completions", {"model": "m", "messages": turns}).prompt
        assert prompt[: len(before)] == before[: body.MAX_PROMPT_BYTES]
        before = prompt
    assert len(before) == body.MAX_PROMPT_BYTES


@pytest.mark.parametrize("content", [5, {"a": 1}, True])
def test_long_bodies_are_checked_too(content: Any) -> None:
    messages = [{"role": "user", "content": content}, {"role": "user", "content": "x" * 300_000}]
    with pytest.raises(BadRequestError):
        parse("/v1/chat/completions", {"model": "m", "messages": messages})


# ---- gRPC


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


GENERATE, EMBED = f"{grpc.SERVICE}/Generate", f"{grpc.SERVICE}/Embed"
ids_st = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30)


@given(ids_st, st.booleans(), st.booleans(), st.none() | st.integers(0, 2**32 - 1))
def test_grpc_tokens(ids: list[int], packed: bool, stream: bool, most: int | None) -> None:
    tokens = field(2, b"".join(map(varint, ids))) if packed else b"".join(field(2, number) for number in ids)
    sampling = b"\x0d\0\0\x80\x3f" + field(3, 5) + (field(8, most) if most is not None else b"")
    message = field(1, b"id") + field(2, field(1, b"text") + tokens) + field(4, sampling) + field(5, int(stream))
    request = parse(GENERATE, framed(message))
    assert (request.token_ids, request.prompt, request.model) == (tuple(ids), b"", "")
    assert (request.max_tokens, request.stream, request.prompt_tokens) == (most, stream, len(ids))
    assert parse(EMBED, framed(message)).max_tokens == 0


def test_grpc_text_and_what_is_opaque() -> None:
    request = parse(GENERATE, framed(field(1, b"id") + field(3, b"hello") + field(99, b"new") + b"\xf9\x06" + b"x" * 8))
    assert (request.prompt, request.token_ids) == (b"hello", None)
    assert parse(GENERATE, framed(b"\xff\xff", flag=1)).prompt == b""
    assert parse(GENERATE, framed(b"")).prompt_tokens == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"model":"m"}',
        framed(b"x" * 10)[:-1],
        framed(b"\x0a\x7f"),
        framed(b"\x0a"),
        framed(b"\x0f\x01"),
        framed(b"\x80"),
        framed(b"\xff" * 11),
        framed(field(2, field(2, b"\x80"))),
        framed(b"\x0d\x00"),
    ],
)
def test_invalid_grpc_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequestError, match="no valid gRPC"):
        parse(GENERATE, data)


@given(st.sampled_from(sorted(PARSERS)), st.binary(max_size=100))
def test_garbage_is_refused_or_understood(path: str, data: bytes) -> None:
    with contextlib.suppress(BadRequestError):
        parse(path, data)
