"""A trace as a workload in open loop: requests come at their recorded times, read as they are needed.

More users: copies of the trace side by side. Prompts of different copies have nothing in common, not even beginnings
that all users of the trace share: nothing in a trace tells a system prompt from a document that many asked about. So N
times the users need N times the cache for the same hit rate, the cautious reading; and reuse within a copy is as
recorded. Each copy but the first is shifted by up to ``PHASE`` seconds, so that bursts do not coincide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, merge
from itertools import islice
from pathlib import Path
from random import Random
from typing import Protocol

from pointsman.lab.requests import LabRequest
from pointsman.lab.traces.options import PHASE, ReplayOptions
from pointsman.lab.traces.ordering import all_in_order, in_order, sliced
from pointsman.lab.traces.prompts import Prompts
from pointsman.lab.traces.rows import TraceRow


class TraceFile(Protocol):
    """Where rows come from."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def rows(self) -> Iterator[TraceRow]:
        """From the beginning."""


class StreamTrace:
    """Requests of a trace at their recorded times. Memory: a minute of the trace, and a copy for each user group.

    Args:
        file: read by each call of :meth:`requests`.
        options: how.
    """

    def __init__(self, file: TraceFile, options: ReplayOptions) -> None:
        self.name = file.path.name
        self._file, self._options = file, options

    def requests(self) -> Iterator[LabRequest]:
        """All, sorted by arrival.

        Raises:
            TraceError: when a line is reached that cannot be read.
        """
        copies = [self._copy(number) for number in range(self._options.scale_users)]
        return copies[0] if len(copies) == 1 else merge(*copies, key=lambda request: request.arrival)

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        """Nothing: the loop is open."""
        del done, now
        return None

    def _copy(self, copy: int) -> Iterator[LabRequest]:
        options = self._options
        prompts = Prompts(f"{options.seed}/{copy}")
        chance = Random(f"{options.seed}/jitter/{copy}")
        shift = chance.uniform(0, PHASE) if copy else 0.0
        for number, (at, row) in enumerate(_jittered(ordered(self._file, options), options.jitter, chance)):
            tokens = prompts.of(row, str(number), row.ids)
            yield LabRequest(
                id=f"{copy}-{number}",
                arrival=(at + shift) / options.speed,
                tokens=tokens[: options.max_input] if options.max_input else tokens,
                max_tokens=max(1, row.output_length),
                session=f"{copy}/{row.session}" if row.session else "",
            )


def ordered(file: TraceFile, options: ReplayOptions) -> Iterator[TraceRow]:
    """The wanted rows of a file, in order; their times count from the first, or from the slice's beginning."""
    rows: Iterable[TraceRow] = file.rows()
    if options.limit is not None and options.sort:
        rows = islice(rows, options.limit)
    rows = sliced(all_in_order(rows) if options.sort else in_order(rows), options.slice)
    return islice(rows, options.limit)


def _jittered(rows: Iterable[TraceRow], jitter: float | None, chance: Random) -> Iterator[tuple[float, TraceRow]]:
    """Rows with their times, spread within what their time stamps stand for, and in order again."""
    heap: list[tuple[float, int, TraceRow]] = []
    for order, row in enumerate(rows):
        at = row.at or 0.0
        while heap and heap[0][0] <= at:
            time, _, ready = heappop(heap)
            yield time, ready
        spread = row.spread if jitter is None else jitter
        heappush(heap, (at + chance.random() * spread if spread else at, order, row))
    while heap:
        time, _, ready = heappop(heap)
        yield time, ready
