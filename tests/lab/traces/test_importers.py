"""Every format: what documented rows become, and that whatever else comes is refused with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.traces.trace_builders import CONTENT, JSON, QWEN, chat, lines_of, span, spans

from pointsman.errors import TraceError
from pointsman.lab.traces.formats import FORMATS, looks_like
from pointsman.lab.traces.rows import MAX_TOKENS, TraceRow
from pointsman.sim.tokens import text_tokens


def lines(content: str | bytes) -> Iterator[tuple[int, bytes]]:
    data = content.encode() if isinstance(content, str) else content
    return ((number, line.strip()) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())


def read(name: str, content: str | bytes, block: int | None = None) -> list[TraceRow]:
    return list(FORMATS[name].rows(lines(content), block))


def facts(name: str, *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(row, field) for field in fields) for row in read(name, CONTENT[name])]


def test_mooncake() -> None:
    assert facts("mooncake", "line", "at", "input_length", "output_length", "ids", "block", "spread") == [
        (1, 0.0, 1100, 5, [0, 1, 2], 512, 3.0),
        (2, 3.0, 1030, 7, [0, 1, 3], 512, 3.0),
        (3, 6.5, 512, 1, [4], 512, 0.0),
    ]


def test_azure() -> None:
    rows = read("azure", CONTENT["azure"])
    assert [(row.input_length, row.output_length, list(row.ids)) for row in rows] == [(374, 44, []), (396, 109, [])]
    assert rows[0].at == pytest.approx(datetime(2023, 11, 16, 18, 15, 46, 680590, UTC).timestamp())
    offset = read("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.5+00:00,1,2\n")
    assert offset[0].at == datetime(2024, 5, 10, 0, 0, 0, 500000, UTC).timestamp()


def test_burstgpt_leaves_failures_out() -> None:
    assert facts("burstgpt", "line", "at", "input_length", "output_length") == [(2, 5.0, 472, 18), (4, 118.5, 417, 276)]


def test_qwen() -> None:
    assert facts("qwen", "at", "input_length", "ids", "block", "session") == [
        (0.5, 40, [1, 2, 3], 16, "7"),
        (4.25, 64, [1, 2, 5, 6], 16, "7"),
    ]


def test_agentic() -> None:
    rows = read("agentic", CONTENT["agentic"])
    assert [(row.session, row.at, row.keep, list(row.ids), row.think, row.end) for row in rows] == [
        ("a", 0.0, 0, [1, 2], 0.0, 1.5),
        ("b", 0.0, 0, [1], 0.0, None),
        ("a", 8.0, 1, [3, 4], 6.5, 9.0),
    ]


def test_aiperf() -> None:
    rows = read("aiperf", CONTENT["aiperf"])
    assert [(row.session, row.at, row.think, row.input_length, row.delta) for row in rows] == [
        ("s", 1.0, None, 600, True),
        ("s", None, 2.5, 50, True),
        ("", 0.0, None, 5, False),
    ]
    assert rows[2].text == text_tokens("What is a pointsman?")


def test_aiperf_sessions_on_one_line_and_messages() -> None:
    turns = [{"text": "one"}, {"text": "two", "delay": 500, "output_length": 3}]
    history = {"session_id": "m", "messages": [{"role": "user", "content": "hi"}], "timestamp": 1}
    delta = {**history, "message_mode": "delta"}
    payload = {"payload": {"messages": history["messages"]}, "timestamp": 2}
    rows = read("aiperf", lines_of([{"session_id": "t", "turns": turns}, history, delta, payload]))
    assert [(row.line, row.session, row.think, row.delta) for row in rows] == [
        (1, "t", None, True),
        (1, "t", 0.5, True),
        (2, "m", None, False),
        (3, "m", None, True),
        (4, "", None, False),
    ]
    assert rows[2].text == rows[4].text is not None


def test_otel() -> None:
    rows = read("otel", CONTENT["otel"])
    assert [(row.line, row.at, row.end, row.input_length, row.output_length, row.session) for row in rows] == [
        (1, 1000.0, 1002.0, 300, 20, "c"),
        (2, 1005.0, 1006.0, 500, 10, "c"),
        (3, 1003.0, 1004.0, 100, 5, ""),
    ]


def test_otel_reads_messages_old_names_and_leaves_failures_out() -> None:
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "x" * 400}]}])
    old = span(1.0, 2.0, gen_ai__usage__prompt_tokens=9, gen_ai__usage__completion_tokens=4)
    failed = span(1.0, 2.0, gen_ai__operation__name="chat", error__type="timeout")
    rows = read("otel", lines_of([spans(chat(1.0, 2.0, 500, 3, gen_ai__input__messages=messages), old, failed)]))
    assert [(row.input_length, row.output_length) for row in rows] == [(500, 3), (9, 4)]
    assert rows[0].text is not None
    assert 100 < len(rows[0].text) < 140


BROKEN = [
    ("mooncake", '{"timestamp": 1, "input_length": "many", "output_length": 1}', "input_length: Expected `int`"),
    ("mooncake", '{"timestamp": 1, "input_length": -1, "output_length": 1}', "`int` >= 0"),
    ("mooncake", '{"timestamp": 1, "input_length": 10000001, "output_length": 1}', "`int` <= 10000000"),
    ("mooncake", '{"timestamp": 1, "output_length": 1}', "missing required field `input_length`"),
    ("mooncake", '{"timestamp": -1, "input_length": 1, "output_length": 1}', "timestamp: Expected `float` >= 0"),
    ("mooncake", '{"timestamp": 1, "input_le', "no JSON"),
    ("mooncake", '{"timestamp": 1, "input_length": 100, "output_length": 1, "hash_ids": [1, 2, 3]}', "--block-size 33"),
    ("qwen", json.dumps({**QWEN[0], "timestamp": "x"}), "timestamp"),
    ("aiperf", '{"text": "\\ud800"}', "no JSON"),
    ("agentic", json.dumps({**JSON["agentic"][0], "keep": 3}), "first of its session"),
    ("agentic", json.dumps({**JSON["agentic"][0], "input_length": 10}), "more than input_length 10"),
    ("aiperf", '{"timestamp": 1}', "no prompt"),
    ("aiperf", '{"text": "a", "input_length": 3}', "text and input_length at once"),
    ("aiperf", '{"turns": []}', "at least one turn"),
    ("aiperf", '{"messages": [{"content": "x"}]}', "each with a role"),
    ("aiperf", '{"payload": {}}', "messages or a prompt"),
    ("otel", json.dumps(spans(span(1.0, 2.0, gen_ai__operation__name="chat"))), "without its input tokens"),
    ("otel", json.dumps(spans(chat(1.0, 2.0, -4, 5))), "whole number"),
    ("otel", json.dumps(spans({**chat(1.0, 2.0, 3, 4), "startTimeUnixNano": "soon"})), "nanoseconds"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "line", "message"), BROKEN)
def test_a_broken_line_is_named_with_what_was_expected(name: str, line: str, message: str) -> None:
    good = next(iter(JSON[name]))
    with pytest.raises(TraceError, match=message.replace("(", r"\(")) as caught:
        read(name, json.dumps({**good, "session_id": "before"} if name == "agentic" else good) + "\n" + line)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("azure", "2023-11-16 18:15:46,1", "2 fields where the header has 3"),
        ("azure", "yesterday,1,2", "TIMESTAMP: expected a date"),
        ("azure", "2023-11-16 18:15:46,-1,2", "ContextTokens: expected a whole number"),
        ("azure", '2023-11-16 18:15:46,"1,2', "no line of a CSV file"),
        ("burstgpt", "nan,m,1,2,3,x", "Timestamp: expected seconds"),
        ("burstgpt", "5,m,1,20000000,3,x", "Response tokens: expected a whole number"),
    ],
)
def test_a_broken_csv_line(name: str, row: str, message: str) -> None:
    header = CONTENT[name].splitlines()[0]
    with pytest.raises(TraceError, match=message) as caught:
        read(name, f"{header}\n{row}\n")
    assert caught.value.line == 2


def test_a_missing_column() -> None:
    with pytest.raises(TraceError, match="no column GeneratedTokens"):
        read("azure", "TIMESTAMP,ContextTokens\n")


LENGTHS = st.integers(0, MAX_TOKENS)


@st.composite
def mooncake_rows(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(st.integers(0, 6000))
    ids = draw(st.lists(st.integers(0, 1 << 40) | st.text("0123456789abcdef", min_size=1), max_size=-(-length // 512)))
    stamp = draw(st.integers(0, 10**12) | st.floats(0, 1e12))
    return {"timestamp": stamp, "input_length": length, "output_length": draw(LENGTHS), "hash_ids": ids}


@given(st.lists(mooncake_rows()))
def test_mooncake_says_what_was_written(found: list[dict[str, Any]]) -> None:
    rows = read("mooncake", lines_of(found))
    assert [row.input_length for row in rows] == [one["input_length"] for one in found]
    assert [row.output_length for row in rows] == [one["output_length"] for one in found]
    assert [list(row.ids) for row in rows] == [one["hash_ids"] for one in found]
    assert [row.at for row in rows] == [one["timestamp"] / 1000 for one in found]


@given(st.lists(st.tuples(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), LENGTHS, LENGTHS), min_size=1))  # noqa: DTZ001
def test_azure_says_what_was_written(found: list[tuple[datetime, int, int]]) -> None:
    text = "".join(f"{at.isoformat(' ')},{asked},{answered}\n" for at, asked, answered in found)
    rows = read("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n" + text)
    assert [(row.at, row.input_length, row.output_length) for row in rows] == [
        (at.replace(tzinfo=UTC).timestamp(), asked, answered) for at, asked, answered in found
    ]


@given(st.lists(st.tuples(st.floats(0, 1e9), LENGTHS, LENGTHS), min_size=1))
def test_burstgpt_says_what_was_written(found: list[tuple[float, int, int]]) -> None:
    text = "".join(f"{at},m,{asked},{answered},0,API log\n" for at, asked, answered in found)
    rows = read("burstgpt", CONTENT["burstgpt"].splitlines()[0] + "\n" + text)
    assert [(row.at, row.input_length, row.output_length) for row in rows] == [one for one in found if one[2]]


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1e9), st.integers(0, 500), LENGTHS)))
def test_qwen_finds_the_root_of_every_chat(found: list[tuple[int, float, int, int]]) -> None:
    parents = {number: number - 1 - gap if gap < number else -1 for number, (gap, *_) in enumerate(found)}
    rows = read(
        "qwen",
        lines_of([
            {**QWEN[0], "chat_id": number, "parent_chat_id": parents[number], "timestamp": at, "input_length": asked,
             "output_length": answered, "hash_ids": []}
            for number, (_, at, asked, answered) in enumerate(found)
        ]),
    )  # fmt: skip
    for number, row in enumerate(rows):
        root = number
        while parents[root] >= 0:
            root = parents[root]
        assert row.session == str(root)
        assert (row.at, row.input_length, row.output_length) == found[number][1:]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 5), st.floats(0, 1e6)), max_size=30)
)
def test_agentic_says_what_was_written(found: list[tuple[str, int, int, float]]) -> None:
    held = dict.fromkeys("abc", 0)
    written = []
    for session, keep, new, think in found:
        keep = min(keep, held[session])  # noqa: PLW2901
        held[session] = keep + new
        written.append(
            {"session_id": session, "t": 0, "input_length": 64 * (keep + new) + 5, "output_length": 1, "block_size": 64,
             "think_time": think, "api_time": 0, "keep": keep, "new": list(range(new))}
        )  # fmt: skip
    rows = read("agentic", lines_of(written))
    assert [(row.session, row.keep, list(row.ids), row.think) for row in rows] == [
        (one["session_id"], one["keep"], one["new"], one["think_time"]) for one in written
    ]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """Lines of a good trace with something else in one of them."""
    content = CONTENT[name].encode().splitlines()
    at = draw(st.integers(0, len(content) - 1))
    kind = draw(st.sampled_from(["bytes", "cut", "swap", "value"]))
    if kind == "bytes":
        content[at] = draw(st.binary(max_size=60)).replace(b"\n", b"")
    elif kind == "cut":
        content[at] = content[at][: draw(st.integers(0, len(content[at])))]
    elif kind == "swap" or name not in JSON:
        where = draw(st.integers(0, max(0, len(content[at]) - 1)))
        content[at] = content[at][:where] + draw(st.binary(max_size=3)).replace(b"\n", b"") + content[at][where + 1 :]
    else:
        row = dict(json.loads(content[at]))
        row[draw(st.sampled_from([*row, "turns", "messages", "payload", "texts", "hash_ids"]))] = draw(JSON_VALUES)
        content[at] = json.dumps(row).encode()
    return b"\n".join(content)


@pytest.mark.parametrize("name", list(FORMATS))
@given(data=st.data())
def test_damage_gives_a_trace_error_or_rows_that_make_sense(name: str, data: st.DataObject) -> None:
    content = data.draw(damaged(name))
    looks_like(next(lines(content), (0, b""))[1])
    try:
        rows = read(name, content)
    except TraceError as error:
        assert 1 <= (error.line or 0) <= content.count(b"\n") + 1  # noqa: PT017 - either is fine
        return
    for row in rows:
        assert 0 <= row.input_length <= 2 * MAX_TOKENS
        assert 0 <= row.output_length <= MAX_TOKENS
        assert row.at is None or abs(row.at) < 1e15


OTEL_ATTRIBUTES = st.dictionaries(
    st.sampled_from([
        "gen_ai.operation.name", "gen_ai.usage.input_tokens", "gen_ai.input.messages", "gen_ai.system_instructions",
        "gen_ai.conversation.id", "error.type",
    ]),
    st.dictionaries(
        st.sampled_from(["stringValue", "intValue", "arrayValue", "kvlistValue", "boolValue"]),
        JSON_VALUES | st.just("chat") | st.just('[{"role":1,"parts":[]}]'),
        max_size=2,
    ),
)  # fmt: skip


@given(OTEL_ATTRIBUTES, JSON_VALUES, JSON_VALUES)
def test_spans_with_anything_in_them(found: dict[str, Any], start: object, end: object) -> None:
    attributes = [{"key": key, "value": value} for key, value in found.items()]
    one = {"startTimeUnixNano": start, "endTimeUnixNano": end, "attributes": attributes}
    try:
        read("otel", json.dumps(spans(one)))
    except TraceError as error:
        assert error.line == 1  # noqa: PT017 - either is fine


@pytest.mark.parametrize("name", list(FORMATS))
def test_each_format_is_known_by_its_first_line(name: str) -> None:
    assert looks_like(next(lines(CONTENT[name]))[1]) == name
