"""Watching configuration files by their content.

Polling and hashing, not inotify: Kubernetes swaps a symlink when a ConfigMap changes and editors rename a new file over
the old one, and both look the same to a reader who opens the path afresh and compares what is inside.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 4 * 1024 * 1024
"""Bigger files are reported as unreadable, not read into memory."""

_Digest = bytes


class FileChange(NamedTuple):
    """What is new about one file. Exactly one of ``text`` and ``problem`` is set."""

    path: Path
    text: str | None
    """The new content."""
    problem: str | None = None
    """Why there is none: the file is gone or cannot be read. What was read before should stay in force."""


OnChange = Callable[[FileChange], Awaitable[None] | None]


class ContentComparer:
    """Remembers what each file held and says what changed. No I/O of its own."""

    def __init__(self) -> None:
        self._content: dict[Path, _Digest] = {}
        self._problem: dict[Path, str] = {}

    def compare(self, path: Path, content: bytes | None, problem: str | None = None) -> FileChange | None:
        """Take note of one reading.

        Args:
            path: the file.
            content: its bytes, or None when it could not be read.
            problem: why not.

        Returns:
            The change, or None when nothing is new. A problem is reported once, until it changes or passes; a file
            that comes back as it was is no change.
        """
        if content is not None:
            try:
                return self._compare_text(path, content, content.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 text: {error.reason} at byte {error.start}"
        problem = problem or "cannot be read"
        if self._problem.get(path) == problem:
            return None
        self._problem[path] = problem
        return FileChange(path, None, problem)

    def _compare_text(self, path: Path, content: bytes, text: str) -> FileChange | None:
        self._problem.pop(path, None)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if self._content.get(path) == digest:
            return None
        self._content[path] = digest
        return FileChange(path, text)


class FileWatcher:
    """Polls files and calls back with new content.

    The content at the time of ``start`` is the base line and is not reported; use :meth:`read_now` to load it.
    A callback that raises ends the watch, so it should handle its own errors.
    """

    def __init__(self, paths: Path | Iterable[Path], interval: float, on_change: OnChange) -> None:
        """Set up, without reading anything.

        Args:
            paths: one file or several.
            interval: seconds between two readings.
            on_change: called on the event loop with each change; may be a coroutine function.
        """
        self._paths = (paths,) if isinstance(paths, Path) else tuple(paths)
        self._interval = interval
        self._on_change = on_change
        self._comparer = ContentComparer()
        self._task: asyncio.Task[None] | None = None

    def read_now(self) -> list[FileChange]:
        """Read every file and return what is new since the last reading; all of it the first time. Blocks briefly."""
        readings = [(path, *_read(path)) for path in self._paths]
        changes = [self._comparer.compare(*reading) for reading in readings]
        return [change for change in changes if change is not None]

    async def start(self) -> None:
        """Take the base line (unless ``read_now`` did) and begin to poll."""
        if self._task is None:
            await asyncio.to_thread(self.read_now)
            self._task = asyncio.create_task(self._run(), name="file-watcher")

    async def stop(self) -> None:
        """Stop polling. Harmless when not started."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()  # what the callback raised, if it did

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            # In a thread: a network file system may take its time.
            for change in await asyncio.to_thread(self.read_now):
                result = self._on_change(change)
                if result is not None:
                    await result


def _read(path: Path) -> tuple[bytes | None, str | None]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None, "the file does not exist"
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    if len(content) > MAX_BYTES:
        return None, f"larger than {MAX_BYTES} bytes"
    return content, None
