"""Batches too long for one turn of the event loop: applied in order, a piece at a time, with picks in between.

A query between two pieces sees a prefix of the batch, as if the engine had sent it in several: each piece begins where
the chain of the one before ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from pointsman.clock import Clock
from pointsman.kvcache.events import AllCleared, BlockRemoved, BlockStored, CacheEvent, EventBatch

PIECE = 512
"""Blocks applied in one go: 0.15 ms compiled; what an engine prefills in one step of 8,192 tokens."""
EVENT = 4
"""What an event takes besides its blocks, in blocks."""


def cost(batch: EventBatch) -> int:
    """Work in a batch, in blocks."""
    return sum(_blocks(event) + EVENT for event in batch.events)


def pieces(batch: EventBatch) -> list[EventBatch]:
    """A batch as several of about :data:`PIECE` each, which have the same effect one after the other."""
    found: list[EventBatch] = []
    events: list[CacheEvent] = []
    room = PIECE
    for event in batch.events:
        for part in _parts(event):
            size = _blocks(part) + EVENT
            if events and size > room:
                found.append(replace(batch, events=events))
                events, room = [], PIECE
            events.append(part)
            room -= size
    return [*found, replace(batch, events=events)]


def _blocks(event: CacheEvent) -> int:
    return 0 if isinstance(event, AllCleared) else len(event.hashes)


def _parts(event: CacheEvent) -> Iterator[CacheEvent]:
    count = _blocks(event)
    if isinstance(event, AllCleared) or count <= PIECE:
        yield event
    elif isinstance(event, BlockRemoved):
        for at in range(0, count, PIECE):
            yield replace(event, hashes=event.hashes[at : at + PIECE])
    elif event.tokens and count * event.block_size != len(event.tokens):
        yield event  # what does not pair up is never keyed, and so it is cheap
    else:
        yield from _stored_parts(event, count)


def _stored_parts(event: BlockStored, count: int) -> Iterator[BlockStored]:
    size, extras, digests = event.block_size, event.extra_keys, event.digests
    for at in range(0, count, PIECE):
        end = at + PIECE
        yield replace(
            event,
            hashes=event.hashes[at:end],
            parent=event.hashes[at - 1] if at else event.parent,
            tokens=event.tokens[at * size : end * size],
            extra_keys=None if extras is None else extras[at:end],
            digests=None if digests is None else digests[at:end],
        )


class Backlog:
    """What is still to be applied to one view.

    Args:
        apply: applies a batch.
    """

    def __init__(self, apply: Callable[[EventBatch], None]) -> None:
        self._apply = apply
        self._batches: deque[EventBatch] = deque()

    def __len__(self) -> int:
        """Batches and pieces of batches."""
        return len(self._batches)

    @property
    def heavy(self) -> bool:
        """Whether there is more than a step's work; reading a long batch has taken its time already."""
        return len(self._batches) > 1 or (len(self._batches) == 1 and cost(self._batches[0]) > PIECE)

    def put(self, batch: EventBatch) -> None:
        """Apply this after everything else."""
        self._batches.append(batch)

    def clear(self) -> None:
        """Apply nothing of it."""
        self._batches.clear()

    def step(self) -> bool:
        """Apply about :data:`PIECE` blocks; whether there is more."""
        room = PIECE
        while self._batches and room > 0:
            batch = self._batches.popleft()
            size = cost(batch)
            if size > PIECE and len(parts := pieces(batch)) > 1:
                self._batches.extendleft(reversed(parts))
                continue
            room -= size
            self._apply(batch)
        return bool(self._batches)


class CatchUp:
    """Works through backlogs, a slice per turn of the event loop; whoever would add to them waits.

    Args:
        clock: time.
        seconds: length of a slice.
        turn: held while a slice of work is done, by whoever does it.
    """

    def __init__(self, clock: Clock, seconds: float, turn: asyncio.Lock) -> None:
        self._clock, self._seconds, self._turn = clock, seconds, turn
        self._late: deque[Backlog] = deque()
        self._behind, self._done = asyncio.Event(), asyncio.Event()
        self._done.set()

    @property
    def behind(self) -> bool:
        """Whether there is a backlog."""
        return bool(self._late)

    def add(self, backlog: Backlog) -> None:
        """A backlog has something in it."""
        if backlog not in self._late:
            self._late.append(backlog)
        self._behind.set()
        self._done.clear()

    async def wait(self) -> None:
        """Until there is none."""
        await self._done.wait()

    async def run(self) -> None:
        """Work for ever."""
        while True:
            await self._behind.wait()
            while self._late:
                async with self._turn:
                    self._slice()
                    await asyncio.sleep(0)
            self._behind.clear()
            self._done.set()

    def _slice(self) -> None:
        end = self._clock.now() + self._seconds
        while self._late:
            if not self._late[0].step():
                self._late.popleft()
            if self._clock.now() >= end:
                return
