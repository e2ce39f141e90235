"""What changed in a view since it was last asked: a sink between the view and the index. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from pointsman.kvcache.kv_index import KVIndex
from pointsman.kvcache.residency import CPU, DISK, GPU, BlockSink
from pointsman.kvcache.shared_keys import DELTA_KEYS
from pointsman.kvcache.snapshot import pack

TIERS = (GPU, CPU, DISK)
NO_KEYS = (b"", b"", b"")
MAX_PENDING = 2_000_000
"""Keys of all recorders together that wait to be written; 80 MB with the lists that hold them."""

Tap = Callable[[str, int, int, KVIndex], BlockSink]
"""Gives the sink of (pod, rank, slot, index)."""


def untapped(_pod: str, _rank: int, _slot: int, index: KVIndex) -> BlockSink:
    """The index itself."""
    return index


class Change(msgspec.Struct, frozen=True):
    """Of one holder: first tiers are emptied, then keys come and go."""

    cleared: str = ""
    """Digits of tiers."""
    stored: tuple[bytes, ...] = NO_KEYS
    """Packed keys by tier."""
    discarded: tuple[bytes, ...] = NO_KEYS


class Budget:
    """Keys that wait, over all recorders."""

    __slots__ = ("dropped", "limit", "used")

    def __init__(self, limit: int = MAX_PENDING) -> None:
        self.limit, self.used, self.dropped = limit, 0, 0


class Recorder:
    """A :class:`pointsman.kvcache.residency.BlockSink` that remembers, while it is on, what went through it.

    Costs 0.5 us per call, whatever the number of keys: lists are kept as they come and worked through by
    :meth:`take`. Off, it costs 0.1 us.

    Args:
        index: where everything goes on to.
        slot: the only one there.
        budget: shared with other recorders.
    """

    def __init__(self, index: KVIndex, slot: int, budget: Budget) -> None:
        self.index, self.slot = index, slot
        self.whole = False
        """What was recorded is not enough: take :meth:`content` instead."""
        self._budget = budget
        self._on = False
        self._steps: list[tuple[int, Sequence[int] | None]] = []  # tier and keys stored, ~tier and keys discarded
        self._size = 0

    def store(self, slot: int, tier: int, keys: Sequence[int]) -> object:
        if self._on:
            self._keep(tier, keys)
        return self.index.store(slot, tier, keys)

    def discard(self, slot: int, tier: int, keys: Sequence[int]) -> object:
        if self._on:
            self._keep(~tier, keys)
        return self.index.discard(slot, tier, keys)

    def clear(self, slot: int, tier: int | None = None) -> object:
        if self._on:
            if tier is None:
                self._empty()
            self._steps.extend((one, None) for one in (TIERS if tier is None else (tier,)))
        return self.index.clear(slot, tier)

    @property
    def pending(self) -> bool:
        """Whether there is something to take."""
        return bool(self._steps)

    def start(self) -> None:
        """Record from now on; what is there already is to be written whole."""
        self._empty()
        self._on = self.whole = True

    def stop(self) -> None:
        """Record no more, and drop what is recorded."""
        self._budget.dropped += self._size
        self._empty()
        self._on = False

    def content(self) -> Iterator[Change]:
        """All that the index holds there now, in pieces, packed one by one; recording goes on from here."""
        self._empty()
        self.whole = False
        return _pieces([self.index.keys_of(self.slot, tier) for tier in TIERS], [[], [], []])

    def take(self) -> list[Change]:
        """What was recorded, with only the last word on each key, in pieces; recording goes on from here."""
        steps = self._steps
        self._empty()
        cleared: set[int] = set()
        last: list[dict[int, bool]] = [{}, {}, {}]
        for sign, keys in steps:
            tier = sign if sign >= 0 else ~sign
            if keys is None:
                cleared.add(tier)
                last[tier].clear()
            else:
                last[tier].update(dict.fromkeys(keys, sign >= 0))
        if not steps:
            return []
        stored, discarded = ([[k for k, held in keys.items() if held is way] for keys in last] for way in (True, False))
        first = Change("".join(map(str, sorted(cleared))))
        if sum(map(len, last)) <= DELTA_KEYS:  # mostly; then a flush is one call
            return [Change(first.cleared, tuple(map(pack, stored)), tuple(map(pack, discarded)))]
        return [*([first] if cleared else []), *_pieces(stored, discarded)]

    def _keep(self, sign: int, keys: Sequence[int]) -> None:
        if self.whole:
            return  # nothing recorded now would be used
        self._steps.append((sign, keys))
        self._size += len(keys)
        self._budget.used += len(keys)
        if self._budget.used > self._budget.limit:
            self._budget.dropped += self._size
            self._empty()
            self.whole = True

    def _empty(self) -> None:
        self._budget.used -= self._size
        self._steps, self._size = [], 0


def _pieces(stored: Sequence[list[int]], discarded: Sequence[list[int]]) -> Iterator[Change]:
    """Changes of at most :data:`DELTA_KEYS` keys of one tier."""
    for tier in TIERS:
        for keys, held in ((stored[tier], True), (discarded[tier], False)):
            for at in range(0, len(keys), DELTA_KEYS):
                part = pack(keys[at : at + DELTA_KEYS])
                blobs = tuple(part if one == tier else b"" for one in TIERS)
                yield Change(stored=blobs) if held else Change(discarded=blobs)
