"""Rows in order of time, in bounded memory, and the part of them that is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from pointsman.errors import TraceError
from pointsman.lab.traces.rows import TraceRow

WINDOW = 60.0
"""Seconds of a trace that rows may be late."""
WINDOW_ROWS = 100_000
"""Rows held at most while waiting for late ones: what bounds memory in dense traces."""
IN_MEMORY_ROWS = 5_000_000
IN_MEMORY_BLOCKS = 50_000_000
"""Limits of what is read into memory at once: some 2 GB."""


def timed(rows: Iterable[TraceRow]) -> Iterator[tuple[float, TraceRow]]:
    """Rows with their time, which has to be there.

    Raises:
        TraceError: if a row has none.
    """
    for row in rows:
        if row.at is None:
            raise TraceError("no time stamp", line=row.line, hint="the requests cannot be sent at recorded times")
        yield row.at, row


def in_order(rows: Iterable[TraceRow], window: float = WINDOW, most: int = WINDOW_ROWS) -> Iterator[TraceRow]:
    """Rows sorted by time, those of the same time by line.

    Args:
        rows: sorted but for rows that come up to ``window`` seconds late.
        window: seconds.
        most: rows held at once.

    Raises:
        TraceError: if a row is later than that.
    """
    heap: list[tuple[float, int, TraceRow]] = []
    newest = passed = float("-inf")
    for order, (at, row) in enumerate(timed(rows)):
        if at < passed:
            late = newest - at
            raise TraceError(
                f"{late:,.1f} s earlier than a line above, and traces are put in order over {window:g} s only",
                line=row.line,
                hint="--sort reads the whole trace into memory and sorts it",
            )
        heappush(heap, (at, order, row))
        newest = max(newest, at)
        while heap and (newest - heap[0][0] > window or len(heap) > most):
            passed, _, ready = heappop(heap)
            yield ready
    while heap:
        yield heappop(heap)[2]


def all_in_order(rows: Iterable[TraceRow]) -> Iterator[TraceRow]:
    """The same with any order, all rows in memory."""
    return iter([row for _, row in sorted(timed(in_memory(rows)), key=lambda pair: pair[0])])


def in_memory(rows: Iterable[TraceRow]) -> list[TraceRow]:
    """All rows.

    Raises:
        TraceError: if they are too many to hold.
    """
    held: list[TraceRow] = []
    blocks = 0
    for row in rows:
        held.append(row)
        # A token of text takes half of what a block's name does.
        blocks += len(row.ids) + len(row.text or ()) // 2
        if len(held) > IN_MEMORY_ROWS or blocks > IN_MEMORY_BLOCKS:
            raise TraceError(
                f"too much to hold in memory: {len(held):,} requests with {blocks:,} blocks up to here",
                line=row.line,
                hint="--limit takes the first requests only",
            )
    return held


def sliced(rows: Iterable[TraceRow], part: tuple[float, float] | None) -> Iterator[TraceRow]:
    """Ordered rows of a part of the trace, their times counted from its beginning.

    Args:
        rows: in order.
        part: from and to, seconds from the first row; None for all.

    Raises:
        TraceError: if there are none in it.
    """
    begin, end = part or (0.0, float("inf"))
    origin: float | None = None
    last = 0.0
    found = False
    for at, row in timed(rows):
        if origin is None:
            origin = at
        last = at - origin
        if last >= end:
            break
        if last >= begin:
            found = True
            row.at = last - begin
            if row.end is not None:
                row.end = max(row.at, row.end - origin - begin)
            yield row
    if not found and origin is not None:
        raise TraceError(
            f"no request from second {begin:g} to {end:g}; the trace's last is at {last:,.1f}", field="--slice"
        )
