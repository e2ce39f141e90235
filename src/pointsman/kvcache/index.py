"""Which endpoint is believed to hold which prompt blocks: a bounded index of chained block keys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

DEFAULT_CAPACITY = 31_250
"""Blocks per slot until told otherwise: llm-d's default, 500,000 tokens in blocks of 16."""


class IndexStats(msgspec.Struct, frozen=True):
    """Size and use of an index.

    Attributes:
        blocks: distinct block keys.
        entries: pairs of block key and slot.
        slots: slots that hold something.
        evictions: entries dropped for want of room since the index was made.
        lookups: blocks asked for since the index was made.
        hits: of them, blocks that at least one slot held.
    """

    blocks: int
    entries: int
    slots: int
    evictions: int
    lookups: int
    hits: int


class PrefixIndex:
    """Block key to the set of slots that hold it, with a least-recently-used bound per slot.

    Keys must come in whole chains from their start (:func:`pointsman.kvcache.blocks.block_keys`). Then a slot that
    holds a block holds every block before it, because a chain is touched from its tail to its head and the oldest
    entries go first; :meth:`match` relies on it to bisect instead of walking the chain.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._default_capacity = capacity
        self._holders: dict[int, int] = {}  # key -> bit set of slots
        self._recent: dict[int, dict[int, None]] = {}  # slot -> its keys, oldest first
        self._capacity: dict[int, int] = {}
        self._width = 0  # length of match lists: highest slot ever recorded + 1
        self._evictions = self._lookups = self._hits = 0

    def __len__(self) -> int:
        return len(self._holders)

    def match(self, keys: Sequence[int]) -> list[int]:
        """Consecutive leading blocks held, by slot; slots past the end of the list hold none."""
        result = [0] * self._width
        count, holders = len(keys), self._holders
        self._lookups += count
        done = 0
        alive = holders.get(keys[0], 0) if count else 0
        while alive:
            # Holder sets only shrink along a chain: find the end of the stretch that all of `alive` hold.
            low, high, rest = done, count, 0
            if holders.get(keys[-1], 0) == alive:
                low = high
            while high - low > 1:
                middle = (low + high) // 2
                if holders.get(keys[middle], 0) == alive:
                    low = middle
                else:
                    high = middle
            done = high
            if done < count:
                rest = holders.get(keys[done], 0) & alive
            lost = alive & ~rest
            while lost:
                bit = lost & -lost
                result[bit.bit_length() - 1] = done
                lost ^= bit
            alive = rest
        self._hits += done
        return result

    def record(self, slot: int, keys: Sequence[int]) -> None:
        """Note that a slot holds a chain now; drops the slot's oldest blocks beyond its capacity."""
        if not keys:
            return
        recent = self._recent.get(slot)
        if recent is None:
            recent = self._recent[slot] = {}
            self._width = max(self._width, slot + 1)
        bit, holders, forget = 1 << slot, self._holders, recent.pop
        # Tail first, so that within a chain the tail is the oldest and is evicted before its head.
        for key in reversed(keys):
            if forget(key, bit):  # None when it was there
                holders[key] = holders.get(key, 0) | bit
            recent[key] = None
        self._shrink(slot)

    def set_capacity(self, slot: int, blocks: int) -> None:
        """Bound the blocks remembered of a slot, at least 0; holds until :meth:`remove`."""
        if self._capacity.get(slot) != blocks:
            self._capacity[slot] = blocks
            self._shrink(slot)

    def remove(self, slot: int) -> None:
        """Forget a slot, in time proportional to its own blocks."""
        self._capacity.pop(slot, None)
        for key in self._recent.pop(slot, ()):
            self._drop(slot, key)

    def clear(self) -> None:
        """Forget every block; capacities and counts stay."""
        self._holders.clear()
        self._recent.clear()

    def stats(self) -> IndexStats:
        """Size and use, for metrics."""
        return IndexStats(
            blocks=len(self._holders),
            entries=sum(map(len, self._recent.values())),
            slots=sum(1 for recent in self._recent.values() if recent),
            evictions=self._evictions,
            lookups=self._lookups,
            hits=self._hits,
        )

    def _shrink(self, slot: int) -> None:
        recent = self._recent.get(slot)
        if recent is None:
            return
        capacity = self._capacity.get(slot, self._default_capacity)
        over = len(recent) - capacity
        if over <= 0:
            return
        # All at once: finding the oldest key of a dict means stepping over what was deleted before it.
        for key in list(islice(recent, over)):
            del recent[key]
            self._drop(slot, key)
        self._evictions += over

    def _drop(self, slot: int, key: int) -> None:
        left = self._holders[key] & ~(1 << slot)
        if left:
            self._holders[key] = left
        else:
            del self._holders[key]
