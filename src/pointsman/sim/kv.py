"""The KV cache of one simulated engine: counted blocks, chained keys, prefix hits and LRU eviction.

Blocks have no identity here, only counts and keys: nothing in a simulation depends on which slab of memory a block
is. A block is in one of four places: free and blank, private to a sequence (not full yet, or a second copy of a
content that is already cached), cached and in use, or cached and unused (least recently used out first).
With a second tier, what is evicted goes there (:mod:`pointsman.sim.cpu_tier`).

Two sequences that compute the same content at the same time hold two copies, as in vLLM; only the first is cached
and announced, where vLLM announces both.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec
from xxhash import xxh3_64_intdigest

from pointsman.kvcache.blocks import token_block_keys
from pointsman.sim.cpu_tier import CpuTier

GPU, CPU = "GPU", "CPU"
_STALE = 10_000
"""Outdated entries of the eviction order that are kept at least, before they are swept out."""


class BlocksStored(msgspec.Struct, frozen=True):
    """Consecutive blocks became matchable. ``parent`` is the key before the first one, None at a prompt's start.

    Without tokens: blocks that are known already are now in ``medium``, too.
    """

    keys: list[int]
    parent: int | None
    token_ids: Sequence[int]
    adapter: str | None = None
    salt: str = ""
    medium: str = GPU


class BlocksRemoved(msgspec.Struct, frozen=True):
    """Blocks were evicted, in this order."""

    keys: list[int]
    medium: str = GPU


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

    tokens: Callable[[int, int], Sequence[int]]
    adapter: str | None = None
    salt: str = ""


def root_key(model: str, adapter: str | None, salt: str) -> int:
    """The key before the first block: contents are shared only within a model, an adapter and a salt."""
    return xxh3_64_intdigest(f"{model}\0{adapter or ''}\0{salt}".encode())


def block_keys(tokens: array[int], parent: int, block_size: int) -> list[int]:
    """Chained keys of the full blocks in ``tokens`` (unsigned 32-bit ids): xxh3-64 seeded with the key before."""
    return token_block_keys(tokens, block_size, parent)


def _run(results: Iterable[object]) -> None:
    """Make an iterator do its work: a loop in C, for hundreds of blocks at a time."""
    deque(results, maxlen=0)


class BlockPool:
    """A fixed number of KV blocks.

    Args:
        total: blocks on the device.
        block_size: tokens per block.
        events: collect what is stored and removed for :meth:`drain_events`.
        cpu_blocks: blocks of the second tier; 0: there is none.
    """

    def __init__(self, total: int, block_size: int, *, events: bool = False, cpu_blocks: int = 0) -> None:
        self.total = total
        self.block_size = block_size
        self.cpu = CpuTier(cpu_blocks)
        # Above 0: how many hold the block. Below: nobody does since the release of that number.
        self._blocks: dict[int, int] = {}
        self._held = 0  # blocks above 0
        # Releases in order, each with its number; entries that ``_blocks`` does not agree with are stale. Whole
        # prompts are moved at a time, by loops in C, where an OrderedDict takes key by key.
        self._aging: deque[tuple[int, list[int]]] = deque()
        self._aged = 0
        self._releases = 0
        self._private = 0
        self._collect = events
        self._events: list[CacheEvent] = []

    @property
    def used(self) -> int:
        """Blocks some sequence holds."""
        return self._held + self._private

    @property
    def cached(self) -> int:
        """Blocks nobody holds whose content may still be hit."""
        return len(self._blocks) - self._held

    @property
    def available(self) -> int:
        """Blocks that can be handed out, by eviction if need be."""
        return self.total - self._held - self._private

    def match(self, keys: Sequence[int], limit: int) -> int:
        """How many of the first ``limit`` keys are cached in any tier, counted up to the first that is not."""
        blocks, cpu = self._blocks, self.cpu.blocks
        count = 0
        for key in keys[:limit]:
            if key not in blocks and key not in cpu:
                break
            count += 1
        return count

    def missing(self, keys: Sequence[int]) -> list[int]:
        """Those of the keys that are not on the device."""
        return [key for key in keys if key not in self._blocks]

    def acquire(self, hold: Hold, keys: Sequence[int], fresh: int) -> bool:
        """Take blocks on the device by key and ``fresh`` private ones, all or nothing. False: they do not fit."""
        blocks = self._blocks
        idle = [key for key in keys if blocks[key] < 0]
        if fresh + len(idle) > self.available:
            return False
        if len(idle) < len(keys):
            for key in keys:
                if blocks[key] > 0:
                    blocks[key] += 1
        blocks.update(dict.fromkeys(idle, 1))
        self._held += len(idle)
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
        blocks = self._blocks
        if blocks.keys().isdisjoint(keys):
            self._own(hold, keys)
            self._announce(keys, 0, len(keys), parent, first, origin)
            return
        start = 0
        for i, key in enumerate(keys):
            holders = blocks.get(key)
            if holders is not None:
                self._announce(keys, start, i, parent, first, origin)
                start = i + 1
                if holders > 0:
                    continue  # a second copy stays private
            self._own(hold, (key,))
        self._announce(keys, start, len(keys), parent, first, origin)

    def release(self, hold: Hold) -> None:
        """Give everything back. The end of the sequence is evicted before its beginning, as prefixes are shared."""
        blocks = self._blocks
        alone = [key for key in hold.keys if blocks[key] == 1]
        if len(alone) < len(hold.keys):
            for key in hold.keys:
                if blocks[key] > 1:
                    blocks[key] -= 1
        self._private -= hold.private
        hold.keys.clear()
        hold.private = 0
        if alone:
            self._releases += 1
            blocks.update(dict.fromkeys(alone, -self._releases))
            self._held -= len(alone)
            self._aging.append((self._releases, alone))
            self._aged += len(alone)
            if self._aged > 2 * self.cached + _STALE:
                self._sweep()

    def clear(self) -> bool:
        """Forget all cached blocks. False, and nothing done, while any block is in use (as in vLLM)."""
        if self.used:
            return False
        self._blocks.clear()
        self._aging.clear()
        self._aged = 0
        self.cpu.clear()
        if self._collect:
            self._events.append(CacheCleared())
        return True

    def drain_events(self) -> list[CacheEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _own(self, hold: Hold, keys: Sequence[int]) -> None:
        self._blocks.update(dict.fromkeys(keys, 1))
        self._held += len(keys)
        hold.keys.extend(keys)
        hold.private -= len(keys)
        self._private -= len(keys)

    def _take(self, hold: Hold, blocks: int) -> None:
        surplus = self.cached + blocks - self.available
        if surplus > 0:
            self._evict(surplus)
        hold.private += blocks
        self._private += blocks

    def _evict(self, count: int) -> None:
        """Forget the least recently used; there are as many."""
        known, aging = self._blocks, self._aging
        gone: list[int] = []
        while count:
            number, keys = aging[0]
            some = keys[-count:]
            del keys[-count:]
            self._aged -= len(some)
            if not keys:
                aging.popleft()
            live = [key for key in reversed(some) if known.get(key) == -number]
            _run(map(known.__delitem__, live))
            count -= len(live)
            gone += live
        if self.cpu.capacity:
            self._offload(gone)
        if self._collect:
            self._events.append(BlocksRemoved(gone))

    def _offload(self, keys: list[int]) -> None:
        stored, removed = self.cpu.put(keys)
        if self._collect and removed:
            self._events.append(BlocksRemoved(removed, CPU))
        if self._collect and stored:
            # Before the removal from the device, so that a reader still knows what the blocks are.
            self._events.append(BlocksStored(stored, None, (), medium=CPU))

    def _sweep(self) -> None:
        known = self._blocks
        fresh = ((number, [key for key in keys if known.get(key) == -number]) for number, keys in self._aging)
        self._aging = deque(entry for entry in fresh if entry[1])
        self._aged = self.cached

    def _announce(
        self, keys: Sequence[int], start: int, stop: int, parent: int | None, first: int, origin: Origin
    ) -> None:
        if not self._collect or start >= stop:
            return
        before = keys[start - 1] if start else parent
        tokens = origin.tokens(first + start, first + stop)
        self._events.append(BlocksStored(list(keys[start:stop]), before, tokens, origin.adapter, origin.salt))
