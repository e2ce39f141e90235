from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tests.lab.traces.trace_builders import write

from pointsman.errors import TraceError
from pointsman.lab.traces import lines as module
from pointsman.lab.traces.lines import read_lines


def test_numbers_count_empty_lines(tmp_path: Path) -> None:
    assert list(read_lines(write(tmp_path, "a\n\n  b \r\nc"))) == [(1, b"a"), (3, b"b"), (4, b"c")]


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    assert list(read_lines(write(tmp_path, gzip.compress(b"a\nb\n"), "plain.jsonl"))) == [(1, b"a"), (2, b"b")]


def test_a_cut_off_gzip_file_names_the_line(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(b"%d %s\n" % (number, bytes(range(33, 97))) for number in range(5000)))
    with pytest.raises(TraceError, match="damaged or cut off") as caught:
        list(read_lines(write(tmp_path, data[: len(data) // 2])))
    assert caught.value.line is not None
    assert caught.value.line > 100


def test_damaged_gzip(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(bytes(range(256)) * 100))
    data[40:60] = bytes(20)
    with pytest.raises(TraceError, match="damaged or cut off"):
        list(read_lines(write(tmp_path, bytes(data))))


@pytest.mark.parametrize("name", ["none", "."])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_lines(tmp_path / name))


def test_a_gigantic_line_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1 << 20)
    path = write(tmp_path, gzip.compress(b"ok\n" + bytes(50 << 20)))
    found = read_lines(path)
    assert next(found) == (1, b"ok")
    with pytest.raises(TraceError, match="a line of more than 1 MiB") as caught:
        next(found)
    assert caught.value.line == 2
