"""Usage: found at the end of real answers wherever they are cut, and never by mistake."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.result import Usage
from pointsman.requestcontrol.usage import TAIL_BYTES, UsageTail

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
STREAMS = [("sse_chat_usage.jsonl", Usage(38, 24, 0)), ("sse_completion_usage.jsonl", Usage(20, 24, 0))]
DONE = b"data: [DONE]\n\n"


def captured(name: str) -> bytes:
    """The bytes of a stream as vLLM sent it."""
    lines = [json.loads(line) for line in (CAPTURES / name).read_text("utf-8").splitlines()]
    return "".join(line["chunk"] for line in lines if "chunk" in line).encode()


def read(*chunks: bytes) -> Usage:
    tail = UsageTail()
    for chunk in chunks:
        tail.feed(chunk)
    return tail.read()


@pytest.mark.parametrize(("name", "usage"), STREAMS)
def test_usage_is_found_wherever_the_stream_is_cut_in_two(name: str, usage: Usage) -> None:
    body = captured(name)
    assert [at for at in range(len(body) + 1) if read(body[:at], body[at:]) != usage] == []


@pytest.mark.parametrize(("name", "usage"), STREAMS)
@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000, TAIL_BYTES - 1, TAIL_BYTES, TAIL_BYTES + 1])
def test_usage_is_found_in_pieces_of_any_size(name: str, usage: Usage, size: int) -> None:
    body = captured(name)
    tail = UsageTail()
    for at in range(0, len(body), size):
        tail.feed(body[at : at + size])
    assert tail.read() == usage
    assert tail.ends_with(DONE)


@given(cuts=st.lists(st.integers(0, 9000), max_size=12).map(sorted), which=st.sampled_from(STREAMS))
def test_usage_is_found_however_often_the_stream_is_cut(cuts: list[int], which: tuple[str, Usage]) -> None:
    body = captured(which[0])
    edges = [0, *cuts, len(body)]
    assert read(*(body[a:b] for a, b in pairwise(edges))) == which[1]


@pytest.mark.parametrize(("name", "usage"), STREAMS)
def test_a_stream_that_ends_early_has_no_usage_or_the_whole(name: str, usage: Usage) -> None:
    body = captured(name)
    assert {read(body[:at]) for at in range(len(body))} <= {Usage(), usage}


PLAIN = [
    (b'{"usage":{"prompt_tokens":3,"completion_tokens":5}}', Usage(3, 5, None)),
    (b'{"usage" : \n {"prompt_tokens":3,"completion_tokens":5} }', Usage(3, 5, None)),
    (b'{"usage":{"input_tokens":3,"output_tokens":5,"input_tokens_details":{"cached_tokens":2}}}', Usage(3, 5, 2)),
    (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":null}}', Usage(3, None, None)),
    (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":null}}}', Usage(3, None, None)),
    (b'{"usage":{"prompt_tokens":0,"completion_tokens":0,"input_tokens":9}}', Usage(0, 0, None)),
    (b'{"usage":{}}', Usage()),
    (b'{"usage":null}', Usage()),
    (b'{"usage":null,"choices":[{"index":0}]}', Usage()),
    (b'{"usage":[{"prompt_tokens":3}]}', Usage()),
    (b'{"usage":"{"}', Usage()),
    (b'{"choices":[]}', Usage()),
    (b"", Usage()),
    # the last one counts
    (b'data: {"usage":{"prompt_tokens":1}}\n\ndata: {"usage":{"prompt_tokens":2}}\n\n' + DONE, Usage(2, None, None)),
    (b'data: {"usage":{"prompt_tokens":1}}\n\ndata: {"usage":null}\n\n' + DONE, Usage(1, None, None)),
    (b'data: {"usage":{"prompt_tokens":1}}\n\ndata: {"usage":{"prompt_tok', Usage(1, None, None)),
    # braces, quotes and backslashes inside strings are text
    (b'{"usage":{"note":"}","prompt_tokens":3}}', Usage(3, None, None)),
    (b'{"usage":{"note":"{{{","prompt_tokens":3},"x":1}', Usage(3, None, None)),
    (b'{"usage":{"note":"\\"}","prompt_tokens":3}}', Usage(3, None, None)),
    (b'{"usage":{"note":"\\\\","prompt_tokens":3},"x":"}"}', Usage(3, None, None)),
    (b'{"usage":{"}":{"{":"}"},"prompt_tokens":3}}', Usage(3, None, None)),
    ('{"usage":{"note":"}\N{SNOWMAN}{","prompt_tokens":3}}'.encode(), Usage(3, None, None)),
    # what a model wrote about usage is no usage
    (b'{"usage":{"prompt_tokens":3},"text":"\\"usage\\":{\\"prompt_tokens\\":9}"}', Usage(3, None, None)),
    # numbers that are none
    (b'{"usage":{"prompt_tokens":"3"}}', Usage()),
    (b'{"usage":{"prompt_tokens":3.5}}', Usage()),
    (b'{"usage":{"prompt_tokens":NaN}}', Usage()),
    (b'{"usage":{"prompt_tokens":3', Usage()),
    (b'{"usage":', Usage()),
    (b'{"usage"', Usage()),
    (b'"usage":' + b"{" * 2000, Usage()),
    (b'"usage":{"a":' * 300, Usage()),
    (b'{"usage":{"prompt_tokens":3,"x":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}}", Usage(3, None, None)),
]


@pytest.mark.parametrize(("body", "usage"), PLAIN, ids=[repr(body[:50]) for body, _ in PLAIN])
def test_bodies_of_every_kind(body: bytes, usage: Usage) -> None:
    assert read(body) == usage


def test_usage_further_from_the_end_than_the_tail_is_lost() -> None:
    body = b'{"usage":{"prompt_tokens":3},"x":"'
    assert read(body + b"a" * (TAIL_BYTES - len(body))) == Usage(3, None, None)
    assert read(body + b"a" * TAIL_BYTES) == Usage()


@given(st.lists(st.binary(max_size=200) | st.sampled_from([b'"usage":', b"{", b"}", b'"', b"\\"]), max_size=40))
def test_garbage_never_raises(chunks: list[bytes]) -> None:
    usage = read(*chunks)
    assert isinstance(usage, Usage)


@given(
    note=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    prompt=st.integers(0, 2**40),
    output=st.integers(0, 2**40),
)
def test_any_text_beside_the_counts_does_no_harm(note: str, prompt: int, output: int) -> None:
    usage = {"x" + note: {"x" + note: note}, "prompt_tokens": prompt, "note": note, "completion_tokens": output}
    body = json.dumps({"choices": [note], "usage": usage, "after": note}).encode()
    assert read(body) == Usage(prompt, output, None)


@pytest.mark.parametrize(("end", "found"), [(DONE, True), (b"data: [DONE]\n", False), (b"", False)])
def test_the_end_mark_is_seen_across_chunks(end: bytes, found: bool) -> None:
    tail = UsageTail()
    for byte in b"x" * 10 + end:
        tail.feed(bytes([byte]))
    assert tail.ends_with(DONE) is found
