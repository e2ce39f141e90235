"""Files that grow, are set aside at a size, and together stay within another: for whoever writes line by line.

``records.jsonl`` is the one that grows; full ones beside it are ``records-000001.jsonl`` and on, the oldest of which
are deleted. Nothing is ever synced: what a crash of the machine takes is not worth a wait.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from pointsman.errors import ConfigError

FILE = "records.jsonl"
"""Name in a folder."""
FILES = 8
"""As many files of equal size make up the bound."""


def records_path(path: Path) -> Path:
    """The file that grows: ``path`` itself, or one in it when it is a folder (or would be: it has no suffix)."""
    return path / FILE if path.is_dir() or not path.suffix else path


def full_files(path: Path) -> list[Path]:
    """Those that were set aside beside the growing file ``path``, oldest first."""
    pattern = re.compile(re.escape(path.stem) + r"-(\d{6,})" + re.escape(path.suffix))
    found = [(int(match[1]), file) for file in path.parent.glob(f"{path.stem}-*{path.suffix}")
             if (match := pattern.fullmatch(file.name))]  # fmt: skip
    return [file for _, file in sorted(found)]


class RecordFiles:
    """One growing file and the full ones. Used by one thread.

    Args:
        path: of the growing file.
        max_bytes: of all files together.
        head: lines that every file begins with.

    Raises:
        ConfigError: if it cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int, head: Callable[[], bytes]) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._full = max(1, max_bytes // FILES)
        self._head = head
        self._file: int | None = None
        self._size = self._head_size = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size:
                self._set_aside()
            self._open()
        except OSError as error:
            raise ConfigError(f"--records: cannot be written: {error.strerror}", source=str(path)) from error

    def make_room(self, size: int) -> bool:
        """Begin another file if this one has no room for so many bytes; returns whether that was done.

        Raises:
            OSError: as of :meth:`rotate`.
        """
        full = self._file is None or (self._size + size > self._full and self._size > self._head_size)
        if full:
            self.rotate()
        return full

    def write(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            OSError: they could not be written, and are not there in part either.
        """
        self._append(lines)

    def rotate(self) -> None:
        """Begin another file, unless this one holds nothing but its head: then that is written anew.

        Raises:
            OSError: that could not be done; the next call tries again.
        """
        used = self._size > self._head_size
        self.close()
        if used:
            self._set_aside()
        self._open()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = self._head_size = 0
        self._bound()
        try:
            self._append(self._head())
        except OSError:
            self.close()  # nothing is to be written under no head
            raise
        self._head_size = self._size

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        try:
            written = os.write(self._file, data)
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def _set_aside(self) -> None:
        older = full_files(self.path)
        number = int(older[-1].stem.rpartition("-")[2]) + 1 if older else 1
        self.path.rename(self.path.with_name(f"{self.path.stem}-{number:06}{self.path.suffix}"))

    def _bound(self) -> None:
        older = full_files(self.path)
        room = self._max_bytes - self._full - sum(file.stat().st_size for file in older)
        for file in older:
            if room >= 0:
                break
            room += file.stat().st_size
            file.unlink(missing_ok=True)
