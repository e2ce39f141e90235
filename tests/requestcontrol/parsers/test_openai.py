"""OpenAI bodies: what is understood of good ones, what is said of bad ones, and that nothing else ever happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.errors import BadRequestError
from pointsman.requestcontrol.parsers.registry import parse_request, parser_for

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, RESPONSES = "/v1/embeddings", "/v1/responses"
HI = {"role": "user", "content": "hi"}
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [HI]},
    COMPLETIONS: {"model": "m", "prompt": "hi"},
    EMBEDDINGS: {"model": "m", "input": "hi"},
    RESPONSES: {"model": "m", "input": "hi"},
}
HUGE = 10**30
INTERNALS = re.compile(r"msgspec|Traceback|pointsman|Struct|Decoder|_Chat|_Message|0x[0-9a-f]|\.py\b|codec")


def parse(path: str, body: bytes, **headers: str) -> InferenceRequest:
    head = RequestHead({":method": "POST", ":path": path, **headers})
    return parse_request(head, body, request_id="r-1", arrival=7.0)


def good(path: str, **fields: Any) -> InferenceRequest:
    return parse(path, json.dumps(GOOD[path] | fields).encode())


def bad(path: str, body: bytes) -> str:
    """What the client is told."""
    with pytest.raises(BadRequestError) as caught:
        parse(path, body)
    text = str(caught.value)
    assert not INTERNALS.search(text), text
    assert 0 < len(text) < 200
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


# ---- good bodies


@pytest.mark.parametrize("path", GOOD)
def test_what_every_kind_of_request_says(path: str) -> None:
    body = json.dumps(
        GOOD[path] | {"stream": True, "cache_salt": "tenant", "temperature": 0.1, "unknown": [{}]}
    ).encode()
    request = parse(path + "?api-version=2", body, authorization="Bearer x")
    assert (request.id, request.arrival, request.path) == ("r-1", 7.0, path)
    assert (request.model, request.target_model) == ("m", "m")
    assert (request.stream, request.cache_salt) == (True, "tenant")
    assert b"hi" in request.prompt
    assert request.prompt_tokens == -(-len(request.prompt) // 4)
    assert request.token_ids is None
    assert request.body_bytes == len(body)
    assert request.headers["authorization"] == "Bearer x"


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("field", ["stream", "cache_salt", "max_tokens"])
def test_null_is_as_good_as_left_out(path: str, field: str) -> None:
    given_null, left_out = good(path, **{field: None}), good(path)
    assert (given_null.stream, given_null.cache_salt) == (False, "")
    assert given_null.max_tokens == left_out.max_tokens


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 5}, 5),
        (CHAT, {"max_completion_tokens": 7}, 7),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, 7),
        (CHAT, {"max_tokens": 2**31}, 2**31),
        (COMPLETIONS, {"max_tokens": 0}, 0),
        (COMPLETIONS, {"max_tokens": 16}, 16),
        (EMBEDDINGS, {}, 0),
        (RESPONSES, {"max_output_tokens": 9}, 9),
        (RESPONSES, {"max_tokens": 9}, 9),
    ],
)
def test_the_bound_on_output_tokens(path: str, fields: dict[str, Any], expected: int | None) -> None:
    assert good(path, **fields).max_tokens == expected


PROMPTS: list[tuple[Any, bytes, tuple[int, ...] | None, int]] = [
    ("", b"", None, 0),
    ("hello", b"hello", None, 2),
    ("h\N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}", b"h\xc3\xa9\xf0\x9f\x98\x80", None, 2),
    ([1, 2, 3], b"", (1, 2, 3), 3),
    ([[1, 2, 3]], b"", (1, 2, 3), 3),
    ([0, 2**32 - 1], b"", (0, 2**32 - 1), 2),
    ([[1], [2]], b"[[1],[2]]", None, 3),
    (["a"], b'["a"]', None, 2),
    (["a", "b"], b'["a","b"]', None, 3),
]


@pytest.mark.parametrize(("prompt", "canonical", "ids", "tokens"), PROMPTS, ids=[str(p[0])[:20] for p in PROMPTS])
def test_prompts_of_completions(prompt: Any, canonical: bytes, ids: tuple[int, ...] | None, tokens: int) -> None:
    request = good(COMPLETIONS, prompt=prompt)
    assert (request.prompt, request.token_ids, request.prompt_tokens) == (canonical, ids, tokens)


@pytest.mark.parametrize(
    ("path", "fields", "parts"),
    [
        (CHAT, {"messages": [HI, {"role": "assistant", "content": None}]}, [b"user", b"hi", b"assistant"]),
        (CHAT, {"messages": [{"content": [{"type": "text", "text": "part"}]}]}, [b'[{"type":"text","text":"part"}]']),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"id": "c1"}]}]}, [b"assistant", b'[{"id": "c1"}]']),
        (CHAT, {"tools": [{"type": "function"}]}, [b'[{"type": "function"}]', b"user", b"hi"]),
        (CHAT, {"messages": [{"role": "tool", "content": "out", "tool_call_id": "c1"}]}, [b"tool", b"out"]),
        (EMBEDDINGS, {"input": ["a", "b"]}, [b'["a","b"]']),
        (EMBEDDINGS, {"input": [1, 2]}, [b"[1,2]"]),
        (RESPONSES, {"instructions": "be kind", "input": "hi"}, [b"be kind", b"hi"]),
        (RESPONSES, {"input": [{"role": "user", "content": "hi"}]}, [b'[{"role":"user","content":"hi"}]']),
    ],
)
def test_the_prompt_holds_what_the_model_will_see_in_order(
    path: str, fields: dict[str, Any], parts: list[bytes]
) -> None:
    prompt = good(path, **fields).prompt
    places = [prompt.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize("tools", [None, []])
def test_no_tools_are_like_none_given(tools: Any) -> None:
    assert good(CHAT, tools=tools).prompt == good(CHAT).prompt


def test_different_tools_are_different_from_the_first_byte_that_differs() -> None:
    one, two = good(CHAT, tools=[{"name": "a"}]).prompt, good(CHAT, tools=[{"name": "b"}]).prompt
    assert one != two
    assert one[:9] == two[:9]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
part_lists = st.lists(st.builds(lambda text: {"type": "text", "text": text}, texts), max_size=3)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={
            "content": st.none() | texts | part_lists,
            "tool_calls": st.lists(st.fixed_dictionaries({"id": texts}), max_size=2),
            "name": texts,
        },
    ),
    min_size=1,
    max_size=6,
)


@given(messages, messages, st.none() | st.lists(st.fixed_dictionaries({"name": texts}), max_size=2))
def test_a_conversation_that_goes_on_begins_with_the_bytes_it_had(
    before: list[dict[str, Any]], more: list[dict[str, Any]], tools: Any
) -> None:
    shorter = good(CHAT, messages=before, tools=tools).prompt
    longer = good(CHAT, messages=before + more, tools=tools).prompt
    assert longer.startswith(shorter)
    assert len(longer) > len(shorter)


@given(messages, messages)
def test_different_conversations_of_plain_text_have_different_bytes(
    one: list[dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    def seen(conversation: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(m["role"], json.dumps(m.get("content") or ""), json.dumps(m.get("tool_calls"))) for m in conversation]

    separators = ("\x1e", "\x1f", "[")
    if any(mark in str(m.get("content")) for m in one + two for mark in separators) or seen(one) == seen(two):
        return
    assert good(CHAT, messages=one).prompt != good(CHAT, messages=two).prompt


@given(texts, texts)
def test_a_completion_that_goes_on_begins_with_the_bytes_it_had(before: str, more: str) -> None:
    assert good(COMPLETIONS, prompt=before + more).prompt.startswith(good(COMPLETIONS, prompt=before).prompt)


# ---- heads


@pytest.mark.parametrize(
    ("headers", "model"),
    [
        ({":method": "POST", ":path": CHAT}, "m"),
        ({":path": CHAT}, "m"),
        ({":path": f"{CHAT}?x=1&y=/v1/embeddings"}, "m"),
        ({":path": "/openai/deployments/d/chat/completions"}, "m"),
        ({":path": "/chat/completions"}, "m"),
        ({":path": CHAT, "content-type": "text/plain"}, "m"),
        ({":path": CHAT, "x-request-id": "a,b", "accept": "a,b,a", "": "", "odd header": "\ufffd\x00\x7f"}, "m"),
        ({":path": CHAT, "content-length": "-1", "transfer-encoding": "chunked,chunked"}, "m"),
        ({}, ""),
        ({":method": "POST"}, ""),
        ({":path": ""}, ""),
        ({":path": "/"}, ""),
        ({":path": "?"}, ""),
        ({":path": "//"}, ""),
        ({":path": "/v1/models"}, ""),
        ({":path": CHAT + "/"}, ""),
        ({":path": "/v1/mychat/completionsx"}, ""),
        ({":path": "/v1/tokenize"}, ""),
        ({":method": "GET", ":path": CHAT}, ""),
        ({":method": "OPTIONS", ":path": CHAT}, ""),
        ({":method": "", ":path": CHAT}, ""),
        ({":method": "GET,GET", ":path": "/v1/models,/v1/models"}, ""),
    ],
)
@pytest.mark.parametrize(
    "body", [json.dumps(GOOD[CHAT]).encode(), b"\xff{{{ no JSON", b""], ids=["good", "bad", "empty"]
)
def test_heads_decide_whether_a_body_is_looked_at(headers: dict[str, str], model: str, body: bytes) -> None:
    head = RequestHead(headers)
    if model and not body.startswith(b'{"'):
        with pytest.raises(BadRequestError):
            parse_request(head, body, request_id="r", arrival=0.0)
        return
    request = parse_request(head, body, request_id="r", arrival=0.0)
    assert (request.model, request.headers, request.body_bytes) == (model, headers, len(body))
    if not model:
        assert (request.prompt, request.prompt_tokens, request.stream, request.max_tokens) == (b"", 0, False, None)


def test_chat_completions_are_not_taken_for_completions() -> None:
    assert parser_for(CHAT) is not parser_for(COMPLETIONS)
    assert parser_for("/v1/models") is None


# ---- bad bodies


def with_field(path: str, field: str, value: Any) -> bytes:
    return json.dumps(GOOD[path] | {field: value}).encode()


NOT_A_STRING: list[Any] = [1, 0, -1, 1.5, True, [], {}, ["m"]]
NOT_A_COUNT: list[Any] = ["5", "", 1.5, -1, True, [], {}, HUGE, -HUGE, 2**63, float("1e300")]
NOT_A_BOOL: list[Any] = ["true", "", 0, 1, 1.5, [], {}]
NOT_MESSAGES: list[Any] = [None, "hi", 1, 1.5, True, {}, HI, []]
NOT_A_MESSAGE: list[Any] = [None, 1, "hi", True, [], [HI], {"role": 1}, {"role": None}, {"role": []}]
NOT_CONTENT: list[Any] = [1, 1.5, True, {}, {"type": "text", "text": "hi"}]
NOT_A_PROMPT: list[Any] = [
    None,
    1,
    1.5,
    True,
    {},
    [],
    [[]],
    [-1],
    [1.5],
    [True],
    [None],
    [{}],
    [1, "a"],
    ["a", 1],
    [2**32],
    [HUGE],
]
NOT_PROMPTS: list[Any] = [
    [[1], None],
    [[1], [-1]],
    [[1], ["a"]],
    [["a"]],
    [[[1]]],
    [[1.5]],
    [1, [2]],
    [{"text": "hi"}],
    ["a", None],
]
NOT_INPUT: list[Any] = [None, 1, 1.5, True, {}]

FIELDS: list[tuple[str, str, Any]] = [
    *((path, "model", value) for path in GOOD for value in [None, "", *NOT_A_STRING]),
    *((path, "max_tokens", value) for path in GOOD for value in NOT_A_COUNT),
    *((CHAT, "max_completion_tokens", value) for value in NOT_A_COUNT),
    *((RESPONSES, "max_output_tokens", value) for value in NOT_A_COUNT),
    *((path, "stream", value) for path in GOOD for value in NOT_A_BOOL),
    *((path, "cache_salt", value) for path in GOOD for value in NOT_A_STRING),
    *((CHAT, "messages", value) for value in NOT_MESSAGES),
    *((CHAT, "messages", [value]) for value in NOT_A_MESSAGE),
    *((CHAT, "messages", [HI, value]) for value in NOT_A_MESSAGE),
    *((CHAT, "messages", [{"role": "user", "content": value}]) for value in NOT_CONTENT),
    *((COMPLETIONS, "prompt", value) for value in NOT_A_PROMPT + NOT_PROMPTS),
    *((path, "input", value) for path in (EMBEDDINGS, RESPONSES) for value in NOT_INPUT),
    *((RESPONSES, "instructions", value) for value in NOT_A_STRING),
]


@pytest.mark.parametrize(
    ("path", "field", "value"), FIELDS, ids=[f"{p[4:]}-{f}-{json.dumps(v)[:40]}" for p, f, v in FIELDS]
)
def test_a_field_of_the_wrong_kind_is_named(path: str, field: str, value: Any) -> None:
    text = bad(path, with_field(path, field, value))
    assert f"`{field}" in text


MISSING = [
    *(
        (path, {k: v for k, v in GOOD[path].items() if k != "model"}, "model not found in request body")
        for path in GOOD
    ),
    *((path, {}, "model not found in request body") for path in GOOD),
    (CHAT, {"model": "m"}, "`messages`"),
    (COMPLETIONS, {"model": "m"}, "`prompt`"),
]


@pytest.mark.parametrize(("path", "body", "text"), MISSING)
def test_a_missing_field_is_named(path: str, body: dict[str, Any], text: str) -> None:
    assert text in bad(path, json.dumps(body).encode())


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    "root", ["[", "[]", "[{}]", "null", '""', '"model"', "1", "-1.5", "true", "false", '[{"model":"m"}]']
)
def test_a_root_that_is_no_object_is_named_as_the_body(path: str, root: str) -> None:
    assert "the body: " in bad(path, root.encode())


def in_body(text: str) -> bytes:
    """A chat body with ``text`` as it stands for a value that nobody reads."""
    return f'{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"x":{text}}}'.encode()


INVALID_JSON = {
    "empty": b"",
    "space": b" \r\n\t",
    "open object": b"{",
    "closed only": b"}",
    "key without value": b'{"model"}',
    "key without colon": b'{"model" "m"}',
    "no value": b'{"model":}',
    "no comma": b'{"model":"m" "x":1}',
    "trailing comma": b'{"model":"m",}',
    "double comma": b'{"model":"m",,"x":1}',
    "single quotes": b"{'model':'m'}",
    "bare key": b"{model:1}",
    "number as key": b'{1:"m"}',
    "trailing text": in_body("1") + b"x",
    "two objects": in_body("1") * 2,
    "cut in a string": in_body('"abc"')[:-4],
    "cut in the middle": in_body("1")[:30],
    "NaN": b"NaN",
    "NaN in a field": in_body("NaN"),
    "Infinity": in_body("Infinity"),
    "minus Infinity": in_body("-Infinity"),
    "undefined": in_body("undefined"),
    "True": in_body("True"),
    "None": in_body("None"),
    "tru": in_body("tru"),
    "leading zero": in_body("01"),
    "leading plus": in_body("+1"),
    "leading point": in_body(".5"),
    "trailing point": in_body("5."),
    "bare exponent": in_body("1e"),
    "minus alone": in_body("-"),
    "hexadecimal": in_body("0x10"),
    "comment": in_body("1 /* one */"),
    "bad escape": in_body('"\\q"'),
    "short unicode escape": in_body('"\\u12"'),
    "newline in a string": in_body('"a\nb"'),
    "control in a string": in_body('"a\x01b"'),
    "zero byte": b"\x00",
    "zeros": b"\x00" * 1000,
    "byte order mark": b"\xef\xbb\xbf" + in_body("1"),
    "UTF-16": in_body("1").decode().encode("utf-16"),
    "UTF-32": in_body("1").decode().encode("utf-32"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff",
    "form": b"model=m&prompt=hi",
    "XML": b"<model>m</model>",
    "YAML": b"model: m\nprompt: hi\n",
    "binary": bytes(range(256)),
    "invalid UTF-8 in content": b'{"model":"m","messages":[{"content":"\xff"}]}',
    "overlong UTF-8 in content": b'{"model":"m","messages":[{"content":"\xc0\xaf"}]}',
    "surrogate bytes in content": b'{"model":"m","messages":[{"content":"\xed\xa0\x80"}]}',
    "cut UTF-8 in the model": b'{"model":"\xe2\x82","messages":[{"content":"hi"}]}',
    "invalid UTF-8 in a part": b'{"model":"m","messages":[{"content":[{"text":"\xff"}]}]}',
    "lone high surrogate": b'{"model":"m","messages":[{"content":"\\ud800"}]}',
    "lone low surrogate": b'{"model":"m","messages":[{"content":"\\udc00 and on"}]}',
    "high surrogate, then text": b'{"model":"m","messages":[{"content":"\\ud800 and on, far enough"}]}',
    "lone surrogate in a part": b'{"model":"m","messages":[{"content":[{"text":"\\ud800"}]}]}',
    "lone surrogate in a role": b'{"model":"m","messages":[{"role":"\\ud800"}]}',
    "lone surrogate in the model": b'{"model":"\\ud800","messages":[{"content":"hi"}]}',
    "lone surrogate in the salt": b'{"model":"m","cache_salt":"\\udfff","messages":[{"content":"hi"}]}',
}


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=list(INVALID_JSON))
def test_what_is_no_json_is_called_so(body: bytes) -> None:
    assert bad(CHAT, body).startswith("the body is no valid JSON: ")


@pytest.mark.parametrize("path", [COMPLETIONS, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b"{'model':'m'}", b"model=m"])
def test_what_is_no_json_is_called_so_on_every_path(path: str, body: bytes) -> None:
    assert bad(path, body).startswith("the body is no valid JSON: ")


DEEP = 100_000
NESTED = {
    "open arrays": "[" * DEEP,
    "arrays": "[" * DEEP + "]" * DEEP,
    "objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "arrays of objects": '[{"a":' * DEEP + "1" + "}]" * DEEP,
}


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("field", ["model", "messages", "prompt", "input", "tools", "max_tokens", "stream", "x"])
@pytest.mark.parametrize("nested", NESTED.values(), ids=list(NESTED))
def test_a_hundred_thousand_brackets_are_refused_in_words(path: str, field: str, nested: str) -> None:
    fields = {key: json.dumps(value) for key, value in GOOD[path].items()} | {field: nested}
    body = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
    text = bad(path, body.encode())
    assert "nested too deeply" in text or f"`{field}" in text or "no valid JSON" in text


@pytest.mark.parametrize("nested", NESTED.values(), ids=list(NESTED))
def test_a_root_of_brackets_is_refused_in_words(nested: str) -> None:
    assert bad(CHAT, nested.encode()).startswith("the body")


@pytest.mark.parametrize("digits", [20, 400, 4400, 100_000])
@pytest.mark.parametrize("make", [lambda n: n, lambda n: f"-{n}", lambda n: f"{n}.5", lambda n: f"1e{n}"])
@pytest.mark.parametrize("field", ["max_tokens", "prompt"])
def test_numbers_of_any_length_are_refused_in_words(digits: int, make: Callable[[str], str], field: str) -> None:
    fields = {"model": '"m"', "prompt": '"hi"'} | {field: make("9" * digits)}
    body = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
    assert f"`{field}`" in bad(COMPLETIONS, body.encode())


@pytest.mark.parametrize("number", ["9" * 400, "9" * 4400, "1e999", "-1e999", "0.1e-999"])
def test_odd_numbers_in_content_parts_never_raise_anything_else(number: str) -> None:
    body = f'{{"model":"m","messages":[{{"content":[{number}]}}]}}'.encode()
    try:
        assert parse(CHAT, body).model == "m"
    except BadRequestError as error:
        assert "`messages[0].content[0]`" in str(error)  # noqa: PT017 - either way is right


@given(st.sampled_from(list(GOOD)), st.binary(max_size=200))
def test_any_bytes_are_understood_or_refused(path: str, body: bytes) -> None:
    try:
        assert parse(path, body).body_bytes == len(body)
    except BadRequestError as error:
        assert not INTERNALS.search(str(error))  # noqa: PT017 - either way is right


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["model", "messages", "prompt", "input", "tools", "max_tokens", "stream", "cache_salt", "instructions", "x"]
)


@given(st.sampled_from(list(GOOD)), st.dictionaries(names, anything, max_size=6))
def test_any_values_are_understood_or_refused(path: str, fields: dict[str, Any]) -> None:
    body = json.dumps(GOOD[path] | fields).encode()
    try:
        request = parse(path, body)
    except BadRequestError as error:
        assert not INTERNALS.search(str(error))  # noqa: PT017 - either way is right
        return
    assert request.model
    assert request.prompt_tokens >= 0
    assert request.max_tokens is None or request.max_tokens >= 0


def test_the_table_of_bad_bodies_is_long_enough() -> None:
    assert len(FIELDS) + len(INVALID_JSON) >= 150
