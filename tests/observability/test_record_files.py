from __future__ import annotations

import os
from pathlib import Path

import pytest

from pointsman.errors import ConfigError
from pointsman.observability.record_files import FILES, RecordFiles, full_files, records_path

HEAD = b"head\n"
LINE = b"x" * 99 + b"\n"


def files_in(folder: Path, max_bytes: int = 8 * 1000) -> RecordFiles:
    return RecordFiles(records_path(folder), max_bytes, lambda: HEAD)


def write(files: RecordFiles, count: int, line: bytes = LINE) -> None:
    for _ in range(count):
        files.make_room(len(line))
        files.write(line)


def test_full_files_are_set_aside_in_order_and_each_begins_with_a_head(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    write(files, 25)
    files.close()
    full = full_files(tmp_path / "records.jsonl")
    assert [file.name for file in full] == ["records-000001.jsonl", "records-000002.jsonl"]
    everything = [*full, tmp_path / "records.jsonl"]
    assert all(file.read_bytes().startswith(HEAD + LINE) for file in everything)
    assert sum(file.read_bytes().count(LINE) for file in everything) == 25


def test_together_they_stay_within_the_bound_and_the_newest_are_kept(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    for number in range(1000):
        line = f"{number:099}\n".encode()
        files.make_room(len(line))
        files.write(line)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 8000
    files.close()
    last = (tmp_path / "records.jsonl").read_text().splitlines()[-1]
    assert int(last) == 999
    assert 1 < len(full_files(tmp_path / "records.jsonl")) < FILES


def test_what_an_earlier_run_wrote_is_set_aside(tmp_path: Path) -> None:
    for _ in range(2):
        files = files_in(tmp_path)
        write(files, 1)
        files.close()
    assert [file.name for file in full_files(tmp_path / "records.jsonl")] == ["records-000001.jsonl"]


def test_rotating_a_file_that_holds_nothing_leaves_one_file(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.rotate()
    files.rotate()
    files.close()
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_line_longer_than_a_file_is_written_all_the_same(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    write(files, 3, b"y" * 5000 + b"\n")
    files.close()
    assert (tmp_path / "records.jsonl").read_bytes() == HEAD + b"y" * 5000 + b"\n"


def test_a_file_name_is_a_file_and_a_name_without_suffix_a_folder(tmp_path: Path) -> None:
    assert records_path(tmp_path / "mine.jsonl") == tmp_path / "mine.jsonl"
    assert records_path(tmp_path / "mine") == tmp_path / "mine" / "records.jsonl"
    files = RecordFiles(records_path(tmp_path / "a" / "b"), 8000, lambda: HEAD)
    files.close()
    assert (tmp_path / "a" / "b" / "records.jsonl").read_bytes() == HEAD


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        RecordFiles(tmp_path / "file" / "records.jsonl", 8000, lambda: HEAD)


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_in(tmp_path)
    write(files, 1)
    real, calls = os.write, []

    def short(file: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(file, data[:10])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="No space"):
        files.write(LINE)
    monkeypatch.undo()
    write(files, 1)
    files.close()
    assert (tmp_path / "records.jsonl").read_bytes() == HEAD + LINE + LINE


def test_no_line_is_written_under_no_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_in(tmp_path, 800)
    write(files, 1)

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            files.make_room(len(LINE))
    monkeypatch.undo()
    write(files, 1)
    files.close()
    assert (tmp_path / "records.jsonl").read_bytes() == HEAD + LINE
