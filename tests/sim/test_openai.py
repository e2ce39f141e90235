from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.errors import BadRequestError
from pointsman.sim.openai import Answer, error_body, models_body, orca_header, parse_call
from pointsman.sim.tokens import Message, answer_offset, answer_text, chat_tokens, text_tokens

DATA = Path(__file__).parents[1] / "data/captures"


def encode(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def events(stream: bytes) -> list[Any]:
    """The JSON documents of an SSE stream; ``[DONE]`` as None."""
    parts = [part.removeprefix("data: ") for part in stream.decode().split("\n\n") if part]
    return [None if part == "[DONE]" else json.loads(part) for part in parts]


def captured(name: str) -> list[Any]:
    lines = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    return events("".join(line["chunk"] for line in lines[1:]).encode())


def shape(value: Any) -> Any:
    """Keys and JSON types, all the way down; strings and numbers without their values."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value)


class TestCalls:
    def test_chat(self) -> None:
        body = encode(model="m", messages=[{"role": "user", "content": "hello"}], stream=True, cache_salt="s", extra=1)
        call = parse_call(body, chat=True)
        assert call.tokens == chat_tokens([Message("user", "hello")])
        assert (call.model, call.max_tokens, call.stream, call.include_usage, call.salt) == ("m", 128, True, False, "s")

    def test_text_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        call = parse_call(encode(messages=[{"role": "user", "content": parts}]), chat=True)
        assert call.tokens == chat_tokens([Message("user", "a\nb")])

    def test_completions_take_text_and_ids(self) -> None:
        assert parse_call(encode(prompt="hello"), chat=False).tokens == text_tokens("hello")
        assert parse_call(encode(prompt=[1, 2, 3]), chat=False).tokens.tolist() == [1, 2, 3]

    def test_the_newer_limit_wins(self) -> None:
        body = encode(messages=[{"content": "x"}], max_tokens=5, max_completion_tokens=7)
        assert parse_call(body, chat=True).max_tokens == 7
        assert parse_call(encode(prompt="x"), chat=False).max_tokens == 16

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"{", "Invalid request body"),
            (b"\xff", "Invalid request body"),
            (encode(prompt=7), "Invalid request body"),
            (encode(prompt=""), "non-empty"),
            (encode(prompt=[-1]), "token ids"),
            (encode(prompt="x", n=2), "n must be 1"),
            (encode(prompt="x", max_tokens=0), "max_tokens"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, body: bytes, message: str) -> None:
        with pytest.raises(BadRequestError, match=message):
            parse_call(body, chat=False)

    def test_a_chat_needs_messages(self) -> None:
        with pytest.raises(BadRequestError, match="message"):
            parse_call(encode(prompt="x"), chat=True)


class TestAnswers:
    @pytest.mark.parametrize(("chat", "file"), [(True, "sse_chat_usage.jsonl"), (False, "sse_completion_usage.jsonl")])
    def test_a_stream_has_the_captured_shape(self, chat: bool, file: str) -> None:
        real = captured(file)
        call = parse_call(
            encode(prompt="x", messages=[{"content": "x"}], stream=True, stream_options={"include_usage": True}),
            chat=chat,
        )
        answer = Answer(call, "id", "m", 1, 16)
        ours = b"".join(answer.chunks(i, 16, "length" if i == 24 else None) for i in range(1, 25))
        assert shape(events(ours)) == shape(real)
        assert ours.count(b"\n\n") == len(real)

    def test_chunks_carry_the_text_since_the_last(self) -> None:
        call = parse_call(encode(prompt="x", stream=True), chat=False)
        answer = Answer(call, "id", 'quo"te', 1, 16)
        stream = events(answer.chunks(1, 0, None) + answer.chunks(6, 0, None) + answer.chunks(7, 0, "length"))
        offset = answer_offset(call.tokens)
        assert [len(chunk["choices"][0]["text"]) // 4 for chunk in stream[:-1]] == [1, 5, 1]
        assert "".join(chunk["choices"][0]["text"] for chunk in stream[:-1]) == answer_text(offset, 0, 7)
        assert stream[0]["model"] == 'quo"te'
        assert [chunk["choices"][0]["finish_reason"] for chunk in stream[:-1]] == [None, None, "length"]

    def test_usage_always_says_what_was_cached(self) -> None:
        call = parse_call(encode(messages=[{"content": "x" * 200}]), chat=True)
        body = json.loads(Answer(call, "id", "m", 1, 16).whole(9, 32, "length"))
        assert body["usage"]["prompt_tokens"] == len(call.tokens) == 55
        assert body["usage"]["completion_tokens"] == 9
        assert body["usage"]["total_tokens"] == 64
        assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 32, "created_cache_tokens": 16}
        assert body["choices"][0]["message"]["role"] == "assistant"


def test_models_have_the_captured_shape() -> None:
    real = json.loads((DATA / "models_a_two_loras.json").read_text())
    ours = json.loads(models_body("tiny", {"sql-lora": "/a", "summ-lora": "/b"}, 4096, 1))
    assert shape(ours) == shape(real)
    assert [(one["id"], one["parent"]) for one in ours["data"]] == [(one["id"], one["parent"]) for one in real["data"]]


def test_errors_have_the_captured_form() -> None:
    real = json.loads(json.loads((DATA / "sse_error_404.jsonl").read_text().splitlines()[1])["chunk"])["error"]
    ours = json.loads(error_body(404, real["message"], kind=real["type"], param=real["param"]))
    assert ours == {"error": real}


def test_load_rides_along_when_asked_for() -> None:
    real = {
        example["request_headers"]["endpoint-load-metrics-format"]: example["response_headers"]["endpoint-load-metrics"]
        for example in json.loads((DATA / "http_examples.json").read_text())
        if "endpoint-load-metrics-format" in example.get("request_headers", {})
    }
    assert orca_header("TEXT", 0, 0.0) == real["TEXT"]
    assert json.loads((orca_header("JSON", 0, 0.0) or "")[5:]) == json.loads(real["JSON"][5:])
    assert orca_header("XML", 0, 0.0) is None
