"""Writes what this replica hears of pods to the shared index: one lease per holder, changes in batches."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from pointsman.clock import Clock
from pointsman.kvcache.kv_index import KVIndex
from pointsman.kvcache.shared_changes import Budget, Change, Recorder
from pointsman.kvcache.shared_keys import (
    ANEW,
    LOG_ENTRIES,
    LOST,
    RELEASE,
    REMOVE,
    TAKE,
    WRITE,
    Names,
    holder_name,
)
from pointsman.kvcache.shared_link import Call, Link, Refused, Value

WRITE_FROM = 0.5
"""Confidence in a pod's stream from which on it is written. Who came late must not replace what others knew."""


class Facts(msgspec.Struct, frozen=True):
    """What is known of a holder besides its blocks."""

    confidence: float = 0.0
    block_size: int = 0
    models: tuple[str, ...] = ()
    sequence: int = -1
    """Number of the newest batch applied; -1 for none."""
    stamp: float = -math.inf
    """Its engine time stamp. With the number it tells one engine process from another."""


class WriterOptions(msgspec.Struct, frozen=True):
    """Times in seconds."""

    lease: float = 6.0
    alive: float = 2.0
    """Between two signs of life of a holder that does not change."""
    keep: float = 600.0
    """After that long without a writer the keys of a holder expire."""
    pause: float = 5.0
    """After a refusal."""


class _Held:
    """One holder that this replica hears."""

    __slots__ = ("leased", "next_sign", "next_try", "recorder")

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.leased = False
        self.next_try = self.next_sign = -math.inf


class Writer:
    """Keeps the shared index like the own one, for the holders whose lease it has.

    Args:
        names: keys of the scope.
        token: what this replica signs leases with; unlike any other's.
        facts: asked for (pod, rank).
        clock: time.
        options: times.
    """

    def __init__(
        self,
        names: Names,
        token: str,
        facts: Callable[[str, int], Facts],
        clock: Clock,
        options: WriterOptions | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._names, self._token, self._facts, self._clock = names, token, facts, clock
        self._options = options or WriterOptions()
        self._budget = Budget()
        self._held: dict[tuple[str, int], _Held] = {}
        self._gone: set[tuple[str, int]] = set()

    @property
    def leases(self) -> int:
        """Holders this replica writes."""
        return sum(held.leased for held in self._held.values())

    def tap(self, pod: str, rank: int, slot: int, index: KVIndex) -> Recorder:
        """The sink of a view; it takes the place of an earlier one of the same holder."""
        before = self._held.get((pod, rank))
        recorder = Recorder(index, slot, self._budget)
        self._gone.discard((pod, rank))
        if before is None:
            self._held[pod, rank] = _Held(recorder)
        else:
            before.recorder.stop()
            before.recorder = recorder
            if before.leased:
                recorder.start()
        return recorder

    def remove(self, pod: str) -> None:
        """A pod is gone for good: nobody shall find it."""
        for key in [key for key in self._held if key[0] == pod]:
            self._held.pop(key).recorder.stop()
            self._gone.add(key)
        if not any(key[0] == pod for key in self._gone):
            self._gone.add((pod, 0))

    def reset(self) -> None:
        """The index was thrown away; what is stored stays until it expires."""
        self.offline()
        self._held.clear()

    def offline(self) -> None:
        """The connection is gone, and with it every certainty; what waited is dropped."""
        for held in self._held.values():
            held.recorder.stop()
            held.leased, held.next_try = False, -math.inf
        self.counts["dropped-blocks"] += self._budget.dropped
        self._budget.dropped = 0

    async def flush(self, link: Link) -> None:
        """Write what has changed.

        Raises:
            LinkDownError: if there is no connection.
        """
        await self._remove(link)
        await self._take(link)
        leased = [(key, held) for key, held in self._held.items() if held.leased]
        await self._write_changes(link, [one for one in leased if not one[1].recorder.whole])
        for key, held in leased:
            if held.leased and held.recorder.whole and self._held.get(key) is held:
                await self._rewrite(link, key, held)
        await self._let_go(link, leased)
        self.counts["dropped-blocks"] += self._budget.dropped
        self._budget.dropped = 0

    async def release(self, link: Link) -> None:
        """Let go of every lease, so that another replica need not wait; what is stored stays."""
        leased = [key for key, held in self._held.items() if held.leased]
        self.offline()
        await link.run([self._release_call(key) for key in leased])

    async def _remove(self, link: Link) -> None:
        gone = [key for key in self._gone if key not in self._held]
        await link.run(
            [
                Call(REMOVE, self._names.all(name), (self._token, name, LOG_ENTRIES))
                for name in (holder_name(*key) for key in gone)
            ]
        )
        self._gone.difference_update(gone)

    async def _take(self, link: Link) -> None:
        """Ask for the leases of holders that are heard well and that nobody seems to write."""
        now = self._clock.now()
        wanted = []
        for key, held in self._held.items():
            if not held.leased and now >= held.next_try and self._facts(*key).confidence >= WRITE_FROM:
                held.next_try = now + self._options.lease / 3
                wanted.append((key, held))
        calls = [
            Call(TAKE, (self._names.lease(holder_name(*key)),), (self._token, self._milliseconds)) for key, _ in wanted
        ]
        for (key, held), answer in zip(wanted, await link.run(calls), strict=True):
            if answer == 1 and self._held.get(key) is held:
                held.leased = True
                held.recorder.start()
                self.counts["leases"] += 1

    async def _write_changes(self, link: Link, leased: Iterable[tuple[tuple[str, int], _Held]]) -> None:
        owners: list[_Held] = []
        try:
            calls = await self._changes(leased, owners)
            answers = await link.run(calls)
        except asyncio.CancelledError:
            for held in owners:
                held.recorder.start()  # nobody knows what of it was done
            raise
        for held, answer in zip(owners, answers, strict=True):
            self._judge(held, answer)

    async def _changes(self, leased: Iterable[tuple[tuple[str, int], _Held]], owners: list[_Held]) -> list[Call]:
        """What there is to write, and by call, in ``owners``, whose it is."""
        now = self._clock.now()
        calls: list[Call] = []
        for key, held in leased:
            if not held.recorder.pending and now < held.next_sign:
                continue
            kind = "delta" if held.recorder.pending else "alive"
            for change in held.recorder.take() or [Change()]:
                calls.append(self._call(key, kind, change))
                owners.append(held)
            held.next_sign = now + self._options.alive
            await asyncio.sleep(0)  # netting and packing 8,192 keys takes 1 ms
        return calls

    async def _rewrite(self, link: Link, key: tuple[str, int], held: _Held) -> None:
        """Everything anew, piece by piece; readers look again when it is done."""
        held.next_sign = self._clock.now() + self._options.alive
        self.counts["rewrites"] += 1
        recorder = held.recorder
        finished = False
        try:
            for call in self._rewriting(key, recorder):
                (answer,) = await link.run([call])
                if not self._judge(held, answer) or held.recorder is not recorder:
                    return
            finished = True
        finally:
            if not finished and held.leased and held.recorder is recorder:
                recorder.start()  # half of it is worth nothing; also when we are told to end just now

    def _rewriting(self, key: tuple[str, int], recorder: Recorder) -> Iterable[Call]:
        content = recorder.content()
        facts = self._facts(*key)
        yield self._call(key, "begin", Change(), facts)
        for change in content:
            yield self._call(key, "more", change, facts)
        yield self._call(key, "end", Change(), facts)

    def _judge(self, held: _Held, answer: object) -> bool:
        """Draw the consequence of an answer to WRITE; whether it was done."""
        if isinstance(answer, Refused):
            self.counts["refused"] += 1
            self._lose(held, self._options.pause)
            return False
        if answer == LOST:
            self.counts["leases-lost"] += held.leased
            self._lose(held, 0.0)
            return False
        if answer == ANEW:
            held.recorder.start()
            return False
        return True

    def _lose(self, held: _Held, pause: float) -> None:
        held.leased = False
        held.recorder.stop()
        held.next_try = self._clock.now() + pause

    async def _let_go(self, link: Link, leased: Iterable[tuple[tuple[str, int], _Held]]) -> None:
        """Leave holders that are not heard well any more to others."""
        lost = [one for one in leased if one[1].leased and self._facts(*one[0]).confidence < WRITE_FROM]
        for _, held in lost:
            self._lose(held, self._options.lease / 3)
        await link.run([self._release_call(key) for key, _ in lost])

    def _release_call(self, key: tuple[str, int]) -> Call:
        name = holder_name(*key)
        return Call(RELEASE, self._names.all(name), (self._token, name, LOG_ENTRIES))

    @property
    def _milliseconds(self) -> int:
        return round(self._options.lease * 1000)

    def _call(self, key: tuple[str, int], kind: str, change: Change, facts: Facts | None = None) -> Call:
        name = holder_name(*key)
        facts = facts or self._facts(*key)
        args: tuple[Value, ...] = (
            self._token,
            self._milliseconds,
            math.ceil(self._options.keep),
            name,
            LOG_ENTRIES,
            kind,
            change.cleared,
            facts.sequence,
            repr(facts.stamp),
            facts.block_size,
            msgspec.json.encode(facts.models),
            round(facts.confidence, 4),
            repr(self._clock.wall()),
            *change.stored,
            *change.discarded,
        )
        return Call(WRITE, self._names.all(name), args)
