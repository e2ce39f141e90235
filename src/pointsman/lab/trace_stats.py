"""What a trace is like: how many, how long, how fast, in which sessions, and how much of it comes again.

Memory does not grow with the trace, but for the names of sessions and blocks (see :mod:`pointsman.lab.reuse`).
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from pointsman.lab.requests import LabRequest
from pointsman.lab.reuse import CACHES, Blocks, Reuse, ReuseReport
from pointsman.lab.traces.formats import RECORDS
from pointsman.lab.traces.opening import AUTO, detect_format, find_file, open_trace
from pointsman.lab.traces.options import STARTS_OVER
from pointsman.lab.traces.ordering import all_in_order, in_memory, in_order
from pointsman.lab.traces.rows import BlockId, TraceRow

PLAIN_BLOCK = 64
"""Tokens of the blocks that prompts without any are cut into."""
_SHARES = (("p5", 5), ("p25", 25), ("p50", 50), ("p75", 75), ("p90", 90), ("p95", 95), ("p99", 99), ("max", 100))


class TraceStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one trace; times in seconds, lengths in tokens.

    Attributes:
        format: it was read as.
        requests: in it.
        duration: from the first to the last; None where times count from the start of each session.
        qps: mean.
        interarrival_cv: standard deviation of the gaps as a share of their mean; 1 is Poisson.
        input: mean and percentiles.
        output: idem.
        sessions: conversations; 0 when the trace knows none.
        requests_per_session: mean and percentiles.
        think: seconds between an answer and the next request.
        reuse: of prompts; None when nothing tells what they have in common.
    """

    format: str
    requests: int
    duration: float | None
    qps: float | None
    interarrival_cv: float | None
    input: dict[str, float | None]
    output: dict[str, float | None]
    sessions: int
    requests_per_session: dict[str, float | None]
    think: dict[str, float | None]
    reuse: ReuseReport | None


def trace_stats(
    path: Path,
    format: str = AUTO,  # noqa: A002 - the word of the command line
    *,
    caches: Sequence[int] = CACHES,
    block_size: int | None = None,
    limit: int | None = None,
    sort: bool = False,
) -> TraceStats:
    """Read a trace once.

    Args:
        path: the file.
        format: of it.
        caches: cache sizes that reuse is asked for, tokens.
        block_size: tokens in a block, where the format leaves that open.
        limit: requests looked at.
        sort: read into memory and sort, for traces far from being in order.

    Raises:
        TraceError: as soon as a line cannot be read.
        ConfigError: if there is no such format.
    """
    name = detect_format(path) if format == AUTO else format
    if name == RECORDS:
        rows: Iterator[TraceRow] = map(_recorded, open_trace(path, name, limit=limit).requests())
        return _Collector(name, caches, relative=False).read(rows, limit)
    file = find_file(path, name, block_size)
    rows = file.rows()
    if file.format.relative:
        rows = _side_by_side(islice(rows, limit))
    elif not file.format.sessions:
        rows = all_in_order(rows) if sort else in_order(rows)
    return _Collector(name, caches, relative=file.format.relative).read(rows, limit)


def _side_by_side(rows: Iterable[TraceRow]) -> Iterator[TraceRow]:
    """Sessions whose starts are not known, begun at random over a while, as a replay does it; all in memory."""
    chance = Random("starts")
    starts: dict[str, float] = {}
    latest: dict[str, float] = {}
    held = in_memory(rows)
    for row in held:
        if row.session not in starts:
            starts[row.session] = chance.uniform(0, STARTS_OVER) - (row.at or 0.0)
        # A session's requests stay in their order, whatever their times say.
        row.at = max(latest.get(row.session, 0.0), starts[row.session] + (row.at or 0.0))
        latest[row.session] = row.at
    held.sort(key=lambda row: row.at or 0.0)
    return iter(held)


class _Collector:
    def __init__(self, name: str, caches: Sequence[int], *, relative: bool) -> None:
        self._name, self._relative = name, relative
        self._input: Counter[int] = Counter()
        self._output: Counter[int] = Counter()
        self._sessions: Counter[str] = Counter()
        self._think: Counter[float] = Counter()
        self._reuse = Reuse(caches)
        self._keys = _Keys()
        self._gaps = _Gaps()

    def read(self, rows: Iterable[TraceRow], limit: int | None) -> TraceStats:
        """All rows, or the first."""
        count = 0
        for count, row in enumerate(rows, 1):
            self._add(row)
            if count == limit:
                break
        gaps = _Gaps() if self._relative else self._gaps
        known = self._keys.known
        return TraceStats(
            format=self._name,
            requests=count,
            duration=gaps.duration,
            qps=(count / gaps.duration) if gaps.duration else None,
            interarrival_cv=gaps.cv,
            input=summary(self._input),
            output=summary(self._output),
            sessions=len(self._sessions),
            requests_per_session=summary(Counter(self._sessions.values())),
            think=summary(self._think),
            reuse=self._reuse.report() if known else None,
        )

    def _add(self, row: TraceRow) -> None:
        blocks, length = self._keys.of(row)
        self._input[length] += 1
        self._output[row.output_length] += 1
        if row.session:
            self._sessions[row.session] += 1
        # The first request of a session has nobody to wait for.
        if row.think is not None and self._sessions[row.session] > 1:
            self._think[round(row.think, 1)] += 1
        self._gaps.add(row.at)
        self._reuse.add(row.at or 0.0, length, blocks)


class _Gaps:
    """First and last arrival, mean and deviation of the times between (Welford)."""

    def __init__(self) -> None:
        self._first, self._last, self._before = math.inf, -math.inf, math.nan
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._ordered = True

    def add(self, at: float | None) -> None:
        if at is None:
            return
        self._first, self._last = min(self._first, at), max(self._last, at)
        gap, self._before = at - self._before, at
        if math.isnan(gap):
            return  # the first
        self._ordered = self._ordered and gap >= 0
        self._count += 1
        delta = gap - self._mean
        self._mean += delta / self._count
        self._squares += delta * (gap - self._mean)

    @property
    def duration(self) -> float | None:
        return self._last - self._first if self._first <= self._last else None

    @property
    def cv(self) -> float | None:
        """None for a file that is not in order, as files of sessions are."""
        known = self._ordered and self._count > 1 and self._mean > 0
        return math.sqrt(self._squares / self._count) / self._mean if known else None


class _Told(NamedTuple):
    """What a session's next request builds on."""

    keys: list[int]
    length: int


class _Keys:
    """Blocks of prompts, and their whole lengths."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        self.known = False
        """Some prompts say what they have in common with others."""

    def of(self, row: TraceRow) -> tuple[Blocks, int]:
        """A prompt's blocks, and its length. Its own last tokens, which no other prompt can have, are left out."""
        if row.delta:
            return self._grown(row)
        if row.keep is not None:
            before = self._told.get(row.session)
            keys = before.keys[: row.keep] if before else []
            keys += _chained(keys[-1] if keys else hash(row.scope), row.ids)
            self._told[row.session] = _Told(keys, row.input_length)
            self.known = True
            return Blocks(keys, row.block, row.block), row.input_length
        names, size = _names(row)
        whole = min(len(names), row.input_length // size)
        keys = _chained(hash((row.scope, row.stream)), names[:whole])
        rest = row.input_length - whole * size
        self.known = self.known or len(names) > 0
        if whole < len(names) and rest > 0:
            # The same name of another length would be another block.
            keys.append(hash((keys[-1] if keys else hash(row.scope), names[whole], rest)))
            return Blocks(keys, size, rest), row.input_length
        return Blocks(keys, size, size), row.input_length

    def _grown(self, row: TraceRow) -> tuple[Blocks, int]:
        """A prompt behind the conversation so far; blocks are counted anew for each part of it."""
        before = self._told.get(row.session) or _Told([], 0)
        names, size = _names(row)
        if size > PLAIN_BLOCK and size % PLAIN_BLOCK == 0:  # as small as those of texts and answers
            names = [f"{name}/{part}" for name in names for part in range(size // PLAIN_BLOCK)]
            size = PLAIN_BLOCK
        start = before.keys[-1] if before.keys else hash(row.scope)
        own = _chained(start, names[: row.input_length // size] or [f"{row.session} {row.line} {before.length}"])
        keys, length = before.keys + own, before.length + row.input_length
        answer = _chained(own[-1], ["answer", *range(row.output_length // size)])
        self._told[row.session] = _Told(keys + answer[1:], length + row.output_length)
        self.known = self.known or bool(before.keys) or len(names) > 0
        return Blocks(keys, size, size), length


def _names(row: TraceRow) -> tuple[Sequence[BlockId], int]:
    """Names of a row's own blocks, and their tokens."""
    if row.text is not None:
        data, size = row.text.tobytes(), PLAIN_BLOCK * row.text.itemsize
        return [xxh3_64_intdigest(data[i : i + size]) for i in range(0, len(data) - size + 1, size)], PLAIN_BLOCK
    if row.ids:
        return row.ids, row.block
    return range(row.input_length // PLAIN_BLOCK) if row.stream else (), PLAIN_BLOCK


def _chained(chain: int, names: Iterable[BlockId]) -> list[int]:
    """Names with their past in them."""
    found = []
    for name in names:
        chain = hash((chain, name))
        found.append(chain)
    return found


def _recorded(request: LabRequest) -> TraceRow:
    """A request of our own records."""
    return TraceRow(
        line=0,
        at=request.arrival,
        input_length=len(request.tokens),
        output_length=request.max_tokens,
        text=array("I", request.tokens),
        session=request.session,
    )


def summary(values: Mapping[int, int] | Mapping[float, int]) -> dict[str, float | None]:
    """Mean and percentiles (nearest rank) of counted values; None without any."""
    total = sum(values.values())
    if not total:
        return dict.fromkeys(("mean", *(name for name, _ in _SHARES)))
    found: dict[str, float | None] = {"mean": round(sum(value * count for value, count in values.items()) / total, 2)}
    ranks = [(name, max(1, -(-share * total // 100))) for name, share in _SHARES]
    seen = 0
    for value, count in sorted(values.items()):
        seen += count
        while ranks and seen >= ranks[0][1]:
            found[ranks.pop(0)[0]] = value
    return found
