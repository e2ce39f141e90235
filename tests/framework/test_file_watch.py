from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pointsman.framework import file_watch
from pointsman.framework.file_watch import ContentComparer, FileChange, FileWatcher

P = Path("f")


class TestComparer:
    def test_only_new_content_is_reported(self) -> None:
        comparer = ContentComparer()
        assert comparer.compare(P, b"a") == FileChange(P, "a")
        assert comparer.compare(P, b"a") is None
        assert comparer.compare(P, b"b") == FileChange(P, "b")
        assert comparer.compare(Path("g"), b"b") == FileChange(Path("g"), "b")

    def test_a_problem_is_reported_once(self) -> None:
        comparer = ContentComparer()
        comparer.compare(P, b"a")
        assert comparer.compare(P, None, "gone") == FileChange(P, None, "gone")
        assert comparer.compare(P, None, "gone") is None
        assert comparer.compare(P, None, "denied") == FileChange(P, None, "denied")
        assert comparer.compare(P, b"a") is None, "came back as it was"
        assert comparer.compare(P, None, "gone") == FileChange(P, None, "gone"), "a new disappearance"

    def test_bad_utf8_is_a_problem_and_a_bom_is_not(self) -> None:
        comparer = ContentComparer()
        change = comparer.compare(P, b"\xff")
        assert change is not None
        assert "UTF-8" in (change.problem or "")
        assert comparer.compare(P, b"\xef\xbb\xbfx") == FileChange(P, "x")


def watch(paths: Path | list[Path], steps: list[Callable[[], object]]) -> list[FileChange]:
    """Runs a watcher, performing each step only after the previous one had its effect."""

    async def run() -> list[FileChange]:
        seen: list[FileChange] = []
        arrived = asyncio.Event()

        def on_change(change: FileChange) -> None:
            seen.append(change)
            arrived.set()

        watcher = FileWatcher(paths, 0.01, on_change)
        await watcher.start()
        for step in steps:
            arrived.clear()
            step()
            await asyncio.wait_for(arrived.wait(), 5)
        await watcher.stop()
        await watcher.stop()
        return seen

    return asyncio.run(run())


def replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def test_write_rename_delete_and_return(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("one")
    steps: list[Callable[[], object]] = [
        lambda: replace(path, "two"),
        lambda: replace(path, "three"),
        path.unlink,
        lambda: replace(path, "four"),
    ]
    seen = watch(path, steps)
    assert [change.text for change in seen] == ["two", "three", None, "four"]
    assert seen[2].problem == "the file does not exist"


def test_config_map_symlinks(tmp_path: Path) -> None:
    """Kubernetes: name → ..data/name, ..data → a dated directory that is swapped atomically."""
    for name, text in (("old", "1"), ("new", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("old")
    path = tmp_path / "c.yaml"
    path.symlink_to("..data/c.yaml")

    def swap() -> None:
        (tmp_path / "..tmp").symlink_to("new")
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    assert [change.text for change in watch([path], [swap])] == ["2"]


def test_read_now_is_the_base_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    watcher = FileWatcher([path, tmp_path], 1, lambda change: None)
    assert [change.problem for change in watcher.read_now()] == [
        "the file does not exist",
        "cannot be read: Is a directory",
    ]
    path.write_text("x")
    assert watcher.read_now() == [FileChange(path, "x")]
    assert watcher.read_now() == []


def test_huge_and_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "MAX_BYTES", 4)
    path = tmp_path / "a"
    path.write_text("12345")
    watcher = FileWatcher(path, 1, lambda change: None)
    assert watcher.read_now()[0].problem == "larger than 4 bytes"
    path.write_text("1234")
    assert watcher.read_now()[0].text == "1234"
    os.utime(path, (1, 1))
    assert watcher.read_now() == []


def test_a_coroutine_callback_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "a"

    async def run() -> list[str | None]:
        seen: list[str | None] = []
        done = asyncio.Event()

        async def on_change(change: FileChange) -> None:
            await asyncio.sleep(0)
            seen.append(change.text)
            done.set()

        watcher = FileWatcher(path, 0.01, on_change)
        await watcher.start()
        await watcher.start()
        replace(path, "x")
        await asyncio.wait_for(done.wait(), 5)
        await watcher.stop()
        return seen

    assert asyncio.run(run()) == ["x"]


def test_stop_tells_what_a_callback_raised(tmp_path: Path) -> None:
    path = tmp_path / "a"

    async def run() -> None:
        called = asyncio.Event()

        def on_change(change: FileChange) -> None:
            called.set()
            raise LookupError(change.path.name)

        watcher = FileWatcher(path, 0.01, on_change)
        await watcher.start()
        replace(path, "x")
        await asyncio.wait_for(called.wait(), 5)
        await asyncio.sleep(0)
        await watcher.stop()

    with pytest.raises(LookupError):
        asyncio.run(run())
