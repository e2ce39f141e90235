"""The KV cache of one simulated engine: counted blocks, chained keys, prefix hits and LRU eviction.

Blocks have no identity here, only counts and keys: nothing in a simulation depends on which slab of memory a block
is. A block is in one of four places: free and blank, private to a sequence (not full yet, or a second copy of a
content that is already cached), cached and in use (``refs``), or cached and unused (``lru``, oldest first).

Two sequences that compute the same content at the same time hold two copies, as in vLLM; only the first is cached
and announced, where vLLM announces both.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
from xxhash import xxh3_64_intdigest


class BlocksStored(msgspec.Struct, frozen=True):
    """Consecutive blocks became matchable. ``parent`` is the key before the first one, None at a prompt's start."""

    keys: list[int]
    parent: int | None
    token_ids: list[int]
    adapter: str | None = None
    salt: str = ""


class BlocksRemoved(msgspec.Struct, frozen=True):
    """Blocks were evicted, in this order."""

    keys: list[int]


class CacheCleared(msgspec.Struct, frozen=True):
    """All blocks were forgotten at once."""


CacheEvent = BlocksStored | BlocksRemoved | CacheCleared


class Hold:
    """What one sequence holds: cached blocks by key, in order, and a count of private ones."""

    __slots__ = ("keys", "private")

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.private = 0

    @property
    def blocks(self) -> int:
        return len(self.keys) + self.private


class Origin(msgspec.Struct, frozen=True):
    """Where committed blocks come from, for events. ``tokens(i, j)`` gives the ids of blocks i to j of the sequence."""

    tokens: Callable[[int, int], list[int]]
    adapter: str | None = None
    salt: str = ""


def root_key(model: str, adapter: str | None, salt: str) -> int:
    """The key before the first block: contents are shared only within a model, an adapter and a salt."""
    return xxh3_64_intdigest(f"{model}\0{adapter or ''}\0{salt}".encode())


def block_keys(tokens: array[int], parent: int, block_size: int) -> list[int]:
    """Chained keys of the full blocks in ``tokens`` (unsigned 32-bit ids): xxh3-64 seeded with the key before."""
    view = memoryview(tokens).cast("B")
    width = block_size * tokens.itemsize
    keys = []
    key = parent
    for start in range(0, len(view) - width + 1, width):
        key = xxh3_64_intdigest(view[start : start + width], key)
        keys.append(key)
    return keys


class BlockPool:
    """A fixed number of KV blocks.

    Args:
        total: blocks on the device.
        block_size: tokens per block.
        events: collect what is stored and removed for :meth:`drain_events`.
    """

    def __init__(self, total: int, block_size: int, *, events: bool = False) -> None:
        self.total = total
        self.block_size = block_size
        self._refs: dict[int, int] = {}
        self._lru: OrderedDict[int, None] = OrderedDict()
        self._private = 0
        self._collect = events
        self._events: list[CacheEvent] = []

    @property
    def used(self) -> int:
        """Blocks some sequence holds."""
        return len(self._refs) + self._private

    @property
    def cached(self) -> int:
        """Blocks nobody holds whose content may still be hit."""
        return len(self._lru)

    @property
    def available(self) -> int:
        """Blocks that can be handed out, by eviction if need be."""
        return self.total - len(self._refs) - self._private

    def match(self, keys: Sequence[int], limit: int) -> int:
        """How many of the first ``limit`` keys are cached, counted up to the first that is not."""
        refs, lru = self._refs, self._lru
        count = 0
        for key in keys[:limit]:
            if key not in refs and key not in lru:
                break
            count += 1
        return count

    def acquire(self, hold: Hold, keys: Sequence[int], fresh: int) -> bool:
        """Take cached blocks by key and ``fresh`` private ones, all or nothing. False: they do not fit."""
        refs, lru = self._refs, self._lru
        idle = sum(key not in refs for key in keys)
        if fresh + idle > self.available:
            return False
        for key in keys:
            if key in refs:
                refs[key] += 1
            else:
                del lru[key]
                refs[key] = 1
        hold.keys.extend(keys)
        self._take(hold, fresh)
        return True

    def grow(self, hold: Hold, blocks: int = 1) -> bool:
        """Hand out private blocks, evicting the least recently used cached ones. False: there are not enough."""
        if blocks > self.available:
            return False
        self._take(hold, blocks)
        return True

    def commit(self, hold: Hold, keys: Sequence[int], parent: int | None, first: int, origin: Origin) -> None:
        """The sequence's private blocks ``first`` and on are full: cache them under ``keys``.

        Args:
            hold: what the sequence holds.
            keys: the blocks' keys, in order.
            parent: key before the first of them, None at the start of the prompt.
            first: index of the first of them within the sequence.
            origin: what the events say of them.
        """
        refs, lru = self._refs, self._lru
        start = 0
        for i, key in enumerate(keys):
            known = key in refs
            if known or key in lru:
                self._announce(keys, start, i, parent, first, origin)
                start = i + 1
            if known:
                continue  # a second copy stays private
            lru.pop(key, None)
            refs[key] = 1
            hold.keys.append(key)
            hold.private -= 1
            self._private -= 1
        self._announce(keys, start, len(keys), parent, first, origin)

    def release(self, hold: Hold) -> None:
        """Give everything back. The end of the sequence is evicted before its beginning, as prefixes are shared."""
        refs, lru = self._refs, self._lru
        for key in reversed(hold.keys):
            left = refs[key] - 1
            if left:
                refs[key] = left
            else:
                del refs[key]
                lru[key] = None
        self._private -= hold.private
        hold.keys.clear()
        hold.private = 0

    def clear(self) -> bool:
        """Forget all cached blocks. False, and nothing done, while any block is in use (as in vLLM)."""
        if self.used:
            return False
        self._lru.clear()
        if self._collect:
            self._events.append(CacheCleared())
        return True

    def drain_events(self) -> list[CacheEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _take(self, hold: Hold, blocks: int) -> None:
        surplus = len(self._lru) + blocks - self.available
        if surplus > 0:
            evict = self._lru.popitem
            gone = [evict(last=False)[0] for _ in range(surplus)]
            if self._collect:
                self._events.append(BlocksRemoved(gone))
        hold.private += blocks
        self._private += blocks

    def _announce(
        self, keys: Sequence[int], start: int, stop: int, parent: int | None, first: int, origin: Origin
    ) -> None:
        if not self._collect or start >= stop:
            return
        before = keys[start - 1] if start else parent
        tokens = origin.tokens(first + start, first + stop)
        self._events.append(BlocksStored(list(keys[start:stop]), before, tokens, origin.adapter, origin.salt))
