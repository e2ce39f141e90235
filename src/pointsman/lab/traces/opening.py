"""Opens a trace: which format, whether it begins as it should, and as what kind of workload it is replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from pointsman.errors import ConfigError, TraceError
from pointsman.lab.requests import Workload
from pointsman.lab.traces.formats import FORMATS, NAMES, RECORDS, Format, looks_like
from pointsman.lab.traces.lines import read_lines
from pointsman.lab.traces.options import STARTS_OVER, Loop, ReplayOptions
from pointsman.lab.traces.replay import StreamTrace
from pointsman.lab.traces.rows import TraceRow
from pointsman.lab.traces.sessions import SessionTrace

AUTO = "auto"


class TraceFile(msgspec.Struct, frozen=True):
    """A file in one format."""

    path: Path
    format: Format
    block: int | None = None

    def rows(self) -> Iterator[TraceRow]:
        """Its requests, as they are read.

        Raises:
            TraceError: with file, line, field and what was expected there; also for a file without requests.
        """
        lines = read_lines(self.path)
        read = 0
        try:
            for row in self.format.rows(lines, self.block):
                read += 1
                yield row
        except TraceError as error:
            raise error.at(str(self.path)) from error
        if not read:
            raise TraceError("no request in it", source=str(self.path), hint=f"read as {self.format.title}")


def open_trace(
    path: Path,
    format: str = AUTO,  # noqa: A002 - the word of the command line
    *,
    speed: float = 1.0,
    slice: tuple[float, float] | None = None,  # noqa: A002 - idem
    scale_users: int = 1,
    seed: int = 0,
    limit: int | None = None,
    sort: bool = False,
    jitter: float | None = None,
    loop: Loop = "auto",
    starts_over: float = STARTS_OVER,
    max_input: int | None = None,
    block_size: int | None = None,
) -> Workload:
    """A recorded workload, read line by line as it is needed (formats of sessions: into memory).

    Args:
        path: the file, plain or gzip.
        format: one of ``NAMES``, or ``auto`` to find out from the first line.
        speed: as the other options, see :class:`~pointsman.lab.traces.options.ReplayOptions`.
        slice: from and to, seconds.
        scale_users: times the users.
        seed: of all that is random.
        limit: requests read.
        sort: in memory first.
        jitter: seconds.
        loop: open or closed.
        starts_over: seconds.
        max_input: tokens.
        block_size: tokens.

    Raises:
        TraceError: if the file cannot be read, has no known format, or its first request is broken. What is wrong
            further down is raised when it is reached.
        ConfigError: for options that make no sense.
    """
    options = ReplayOptions(
        speed=speed,
        slice=slice,
        scale_users=scale_users,
        seed=seed,
        limit=limit,
        sort=sort,
        jitter=jitter,
        loop=loop,
        starts_over=starts_over,
        max_input=max_input,
        block=block_size,
    )
    options.check()
    if format == AUTO:
        format = detect_format(path)  # noqa: A001
    if format == RECORDS:
        return _records(path, options)
    file = find_file(path, format, block_size)
    closed = loop == "closed" or (loop == AUTO and file.format.sessions)
    if closed or file.format.sessions:
        return SessionTrace(file, options, relative=file.format.relative)
    return StreamTrace(file, options)


def read_rows(path: Path, format: str = AUTO, block_size: int | None = None) -> Iterator[TraceRow]:  # noqa: A002
    """The requests of a trace as they stand in the file, for statistics.

    Raises:
        TraceError: as :func:`open_trace`; for everything from the first request on when it is reached.
    """
    return find_file(path, detect_format(path) if format == AUTO else format, block_size).rows()


def find_file(path: Path, format: str, block_size: int | None = None) -> TraceFile:  # noqa: A002
    """The file in the format of that name, when it begins like one.

    Raises:
        TraceError: if its first request cannot be read; with the format it looks like, if that is another.
        ConfigError: if there is no such format.
    """
    found = FORMATS.get(format)
    if found is None:
        raise ConfigError(f"{format!r} is no format", field="--format", hint=f"one of {', '.join((AUTO, *NAMES))}")
    file = TraceFile(path, found, block_size)
    try:
        next(file.rows())
    except TraceError as error:
        looks = _looks_like(path)
        if looks is None or looks == format:
            raise
        raise TraceError(
            error.message, source=str(path), line=error.line, field=error.field, hint=f"it looks like --format {looks}"
        ) from error
    return file


def detect_format(path: Path) -> str:
    """Name of the format the file begins like.

    Raises:
        TraceError: if it cannot be read, is empty, or begins like none.
    """
    if path.is_dir():
        return RECORDS  # the only ones that come in several files
    try:
        number, line = next(read_lines(path), (0, b""))
    except TraceError as error:
        raise error.at(str(path)) from error
    if not number:
        raise TraceError("the file is empty", source=str(path))
    found = _looks_like(path)
    if found is None:
        raise TraceError(
            f"begins like no trace that is known: {line[:60].decode('utf-8', 'replace')!r}",
            source=str(path),
            line=number,
            hint=f"say --format, one of {', '.join(NAMES)}; JSON needs one value a line",
        )
    return found


def _looks_like(path: Path) -> str | None:
    try:
        _, line = next(read_lines(path), (0, b""))
    except TraceError:
        return None
    return looks_like(line)


def _records(path: Path, options: ReplayOptions) -> Workload:
    from pointsman.lab.records import open_records  # noqa: PLC0415 - it imports this package's errors and options

    return open_records(
        path,
        speed=options.speed,
        slice=options.slice,
        scale_users=options.scale_users,
        seed=options.seed,
        limit=options.limit,
    )
