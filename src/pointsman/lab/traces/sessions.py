"""A trace of sessions as a workload: by default in closed loop, where a request waits for the answer before it.

The trace is held in memory, its prompts as names of blocks: 8 bytes for each new one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from random import Random

import msgspec

from pointsman.errors import TraceError
from pointsman.lab.requests import LabRequest
from pointsman.lab.traces.options import PHASE, ReplayOptions
from pointsman.lab.traces.ordering import in_memory
from pointsman.lab.traces.prompts import Prompts
from pointsman.lab.traces.replay import TraceFile
from pointsman.lab.traces.rows import BlockId, TraceRow
from pointsman.sim.tokens import answer_ids, answer_offset


class _Session(msgspec.Struct):
    """One conversation of the file; ``start`` is None when the trace does not say."""

    name: str
    rows: list[TraceRow]
    start: float | None


class SessionTrace:
    """Sessions of a trace.

    A session's next request comes when the answer is there and the recorded thinking is over; where the trace gives
    times and no thinking, at its time, but not before the answer. Sessions without a start begin at random, evenly
    over ``starts_over`` seconds.

    Args:
        file: read at the first request.
        options: how. ``slice`` chooses sessions by their start in closed loop, requests by their time in open loop.
        relative: times in the file count from the start of their session.
    """

    def __init__(self, file: TraceFile, options: ReplayOptions, *, relative: bool) -> None:
        self.name = file.path.name
        self._file, self._options, self._relative = file, options, relative
        self._open = options.loop == "open"
        self._prompts: list[Prompts] = []
        self._sessions: list[_Session] = []
        self._starts: list[list[float]] = []

    def requests(self) -> Iterator[LabRequest]:
        """First requests of sessions, or all in open loop, sorted by arrival.

        Raises:
            TraceError: if a line cannot be read, or has no time in open loop.
        """
        if not self._sessions:
            self._load()
        planned = []
        for copy, starts in enumerate(self._starts):
            for number, (session, start) in enumerate(zip(self._sessions, starts, strict=True)):
                count = len(session.rows) if self._open else 1
                planned += [(self._time(session, turn, start), copy, number, turn) for turn in range(count)]
        begin, end = self._options.slice or (0.0, float("inf"))
        chosen = sorted(one for one in planned if begin <= one[0] < end)
        if not chosen:
            raise TraceError(f"no request from second {begin:g} to {end:g}", source=self.name, field="--slice")
        for at, copy, number, turn in chosen:
            yield self._request(copy, number, turn, (at - begin) / self._options.speed, None)

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        """The session's next request, in closed loop."""
        if self._open:
            return None
        copy, number, turn = (int(part) for part in done.id.split("-"))
        session = self._sessions[number]
        turn += 1
        if turn == len(session.rows):
            return None
        row, speed = session.rows[turn], self._options.speed
        if row.think is not None:
            arrival = now + row.think / speed
        elif row.at is not None and session.rows[0].at is not None:
            begin = self._options.slice[0] if self._options.slice else 0.0
            arrival = max(now, (self._time(session, turn, self._starts[copy][number]) - begin) / speed)
        else:
            arrival = now
        return self._request(copy, number, turn, arrival, done.tokens)

    def _load(self) -> None:
        self._prompts = [Prompts(f"{self._options.seed}/{copy}") for copy in range(self._options.scale_users)]
        found: dict[str, _Session] = {}
        for count, row in enumerate(in_memory(islice(self._file.rows(), self._options.limit))):
            name = row.session or f"#{count}"
            session = found.get(name)
            if session is None:
                found[name] = _Session(name, [row], None if self._relative else row.at)
            else:
                session.rows.append(row)
        for session in found.values():
            if not self._relative:
                _order(session)
        self._sessions = list(found.values())
        origin = min((one.start for one in self._sessions if one.start is not None), default=0.0)
        for copy in range(self._options.scale_users):
            chance = Random(f"{self._options.seed}/starts/{copy}")
            shift = chance.uniform(0, PHASE)
            self._starts.append(
                [
                    shift * (copy > 0) + one.start - origin
                    if one.start is not None
                    else chance.uniform(0, self._options.starts_over)
                    for one in self._sessions
                ]
            )

    def _time(self, session: _Session, turn: int, start: float) -> float:
        """When a request of a session comes in open loop, seconds of the trace."""
        row, first = session.rows[turn], session.rows[0]
        if turn == 0:
            return start
        if row.at is None or first.at is None:
            raise TraceError(
                "no time stamp",
                source=str(self._file.path),
                line=row.line,
                hint="a closed loop needs none: --loop closed",
            )
        return start + row.at - first.at

    def _request(self, copy: int, number: int, turn: int, arrival: float, before: array[int] | None) -> LabRequest:
        session = self._sessions[number]
        row = session.rows[turn]
        tokens = self._prompt(copy, number, turn, before)
        return LabRequest(
            id=f"{copy}-{number}-{turn}",
            arrival=arrival,
            tokens=tokens[: self._options.max_input] if self._options.max_input else tokens,
            max_tokens=max(1, row.output_length),
            session=f"{copy}/{session.name}" if row.session else "",
        )

    def _prompt(self, copy: int, number: int, turn: int, before: array[int] | None) -> array[int]:
        """Tokens of a request; ``before`` are those of the session's previous one, if at hand."""
        rows, prompts = self._sessions[number].rows, self._prompts[copy]
        row = rows[turn]
        name = f"{number}-{turn}"
        if row.delta and turn:
            past = before if before is not None else self._prompt(copy, number, turn - 1, None)
            answer = answer_ids(answer_offset(past), 0, max(1, rows[turn - 1].output_length))
            return past + answer + prompts.of(row, name, row.ids)
        shared = (row.keep or 0) * row.block
        if before is not None and shared and len(before) >= shared:
            return prompts.of(row, name, row.ids, before[:shared])
        return prompts.of(row, name, _blocks(rows, turn))


def _order(session: _Session) -> None:
    """Requests of a session by time, where each has one; thinking from recorded ends of answers."""
    rows = session.rows
    if all(row.at is not None for row in rows):
        rows.sort(key=lambda row: row.at or 0.0)
        session.start = rows[0].at
    for before, row in pairwise(rows):
        if row.think is None and row.at is not None and before.end is not None:
            row.think = max(0.0, row.at - before.end)


def _blocks(rows: Sequence[TraceRow], turn: int) -> Sequence[BlockId]:
    """All blocks of a prompt, those kept of the prompts before it included."""
    row = rows[turn]
    if not row.keep:
        return row.ids
    found: list[BlockId] = []
    for one in rows[: turn + 1]:
        del found[one.keep or 0 :]
        found.extend(one.ids)
    return found
