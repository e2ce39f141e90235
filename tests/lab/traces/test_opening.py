from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import msgspec
import pytest
from tests.lab.traces.trace_builders import CONTENT, write

from pointsman.errors import ConfigError, TraceError
from pointsman.lab.trace_stats import trace_stats
from pointsman.lab.traces import FORMATS, NAMES, detect_format, open_trace, read_rows
from pointsman.observability.record_lines import VERSION, HeadLine, RequestLine


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("compressed", [False, True])
def test_every_format_is_found_and_replayed(tmp_path: Path, name: str, compressed: bool) -> None:
    content = CONTENT[name].encode()
    path = write(tmp_path, gzip.compress(content) if compressed else content)
    assert detect_format(path) == name
    found = list(open_trace(path).requests())
    assert found
    assert found == list(open_trace(path, name).requests())
    assert len(list(read_rows(path))) >= len(found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("a,b,c\n1,2,3\n", "begins like no trace"),
        ("{\n", "one value a line"),
        ('{"x": 1}', "begins like no trace"),
        (b"\xff\xfe\x00", "begins like no trace"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request in it"),
        ('{"resourceSpans": []}', "no request in it"),
    ],
)
def test_what_is_no_trace(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TraceError, match=message) as caught:
        open_trace(path)
    assert caught.value.source == str(path)


def test_the_wrong_format_says_which_it_looks_like(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT["azure"])
    with pytest.raises(TraceError, match=r":1: no JSON.*it looks like --format azure"):
        open_trace(path, "mooncake")
    with pytest.raises(TraceError, match="it looks like --format qwen"):
        open_trace(write(tmp_path, CONTENT["qwen"]), "agentic")


def test_a_broken_first_line_is_no_question_of_format(tmp_path: Path) -> None:
    path = write(tmp_path, '{"timestamp": 1, "input_length": "x", "output_length": 1}')
    with pytest.raises(TraceError, match=r"trace:1: input_length: Expected `int`, got `str`$"):
        open_trace(path)


def test_an_unknown_format_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"auto, {', '.join(NAMES)}"):
        open_trace(write(tmp_path, "{}"), "sharegpt")


def records(folder: Path) -> Path:
    head = HeadLine(version=VERSION, recording="r", started=0.0, block_tokens=64, block_bytes=256)
    asked = [
        RequestLine(id=f"{number}", at=float(number), prompt_tokens=100, output_tokens=7, pod="a", status=200)
        for number in range(3)
    ]
    return write(folder, b"".join(msgspec.json.encode(line) + b"\n" for line in (head, *asked)), "records.jsonl")


def test_our_own_records(tmp_path: Path) -> None:
    path = records(tmp_path)
    assert detect_format(path) == "records"
    found = list(open_trace(path, limit=2, speed=2).requests())
    assert [(one.arrival, len(one.tokens), one.max_tokens) for one in found] == [(0.0, 100, 7), (0.5, 100, 7)]
    assert trace_stats(path).requests == 3


def test_blocks_of_another_size(tmp_path: Path) -> None:
    path = write(tmp_path, '{"timestamp": 0, "input_length": 128, "output_length": 1, "hash_ids": [1, 2, 3, 4]}')
    with pytest.raises(TraceError, match="--block-size 32"):
        open_trace(path)
    (found,) = open_trace(path, block_size=32).requests()
    assert len(found.tokens) == 128


def test_a_long_trace_is_read_as_it_is_needed(tmp_path: Path) -> None:
    line = b'{"timestamp": %d, "input_length": 2, "output_length": 1}\n'
    path = write(tmp_path, b"".join(line % (1000 * number) for number in range(5000)) + b"broken")
    requests = open_trace(path).requests()
    assert [len(next(requests).tokens) for _ in range(100)] == [2] * 100


def test_workloads_travel_to_other_processes(tmp_path: Path) -> None:
    workload = open_trace(write(tmp_path, CONTENT["mooncake"]))
    assert list(pickle.loads(pickle.dumps(workload)).requests()) == list(workload.requests())
