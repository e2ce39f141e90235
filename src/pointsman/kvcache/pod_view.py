"""What one engine (a pod's data-parallel rank) holds, followed event by event and told to the index in own keys.

Engine hashes are opaque here: a map from hash to own key resolves parents and removals. A block whose parent was never
announced (we came late, or the announcement was lost) is live but has no key yet; it waits, with its tokens, for the
parent, and then the chain behind it gets its keys at once.

Such an orphan is never credited to a prompt, though its own tokens are known, because nothing sound could be said:

* Its place is not known. An event tells a parent's hash, not how many blocks lie before, and a match is a number of
  leading blocks.
* Its context is not known. Equal tokens behind another prefix (a document that was retrieved behind another system
  prompt) are other keys and values; a match by tokens alone would promise what the engine does not have.
* The parent's hash would tell both, but only to who can compute it: vLLM starts its chains from random bytes unless
  PYTHONHASHSEED is set, and the form differs by version and options.

So an orphan errs on the side of too little, like all that was missed before we came: nothing is promised that is not
there, and as long as much is missing the view is not trusted (:attr:`PodView.coverage`, :mod:`pointsman.kvcache.trust`)
and the approximate match, which knows our own picks with their prefixes, speaks for the endpoint.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import cast

import msgspec

from pointsman.kvcache.event_keys import stored_keys
from pointsman.kvcache.events import (
    ANY_MEDIUM,
    DEFAULT_MEDIUM,
    AllCleared,
    BlockRemoved,
    BlockStored,
    EventBatch,
)
from pointsman.kvcache.residency import CPU, DISK, GPU, BlockSink, Cell, Group, TierKeys, prefix_groups

MAX_COPIES = 64
"""Copies counted per block. Requests in vLLM's ``kv_cache_report_mode: full`` announce cached blocks again and again
without ever removing them as often, so a count without bound would keep evicted blocks alive for ever."""
MAX_ORPHANS = 65_536
"""Blocks without a known parent whose tokens are kept, per view."""


class _Orphan:
    """Blocks that wait for the key of the block before them."""

    __slots__ = ("event", "left")

    def __init__(self, event: BlockStored) -> None:
        # A list of token ids takes up to 40 bytes per token, an array 4.
        self.event = msgspec.structs.replace(event, tokens=array("I", event.tokens), hashes=tuple(event.hashes))
        self.left = len(event.hashes)


class PodView:
    """The blocks of one engine.

    Args:
        sink: told of blocks in own keys.
        slot: of the engine in the sink.
        model: what own keys start from; must be what requests' keys start from.
        max_copies: copies counted per block, None for no bound.
        max_orphans: blocks kept waiting for a parent.
    """

    def __init__(
        self,
        sink: BlockSink,
        slot: int,
        model: str,
        *,
        max_copies: int | None = MAX_COPIES,
        max_orphans: int = MAX_ORPHANS,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """What could not be used, by reason: ``mismatch``, ``orphan``, ``orphan-dropped``, ``removed-unknown``…"""
        self._sink, self._slot, self._model = sink, slot, model
        self._capacity = 0  # blocks the engine has; 0: not known
        self._max_copies, self._max_orphans = max_copies, max_orphans
        self._groups: dict[int, Group] = {}
        self._indexed: list[Group] = []
        self._held = {tier: TierKeys(sink, slot, tier) for tier in (GPU, CPU, DISK)}
        self._orphans: dict[tuple[int, int], _Orphan] = {}  # (group, hash) -> what it waits in; oldest first
        self._waiting: dict[tuple[int, int], list[_Orphan]] = {}  # (group, parent) -> those that wait for it

    def apply(self, batch: EventBatch) -> None:
        """Follow one batch."""
        for event in batch.events:
            if isinstance(event, BlockStored):
                self._store(event)
            elif isinstance(event, BlockRemoved):
                self._remove(event)
            elif isinstance(event, AllCleared):
                self.clear()

    def clear(self) -> None:
        """The engine holds nothing (its cache was cleared, or it is a new process, or gone)."""
        for group in self._groups.values():
            group.cells.clear()
        for held in self._held.values():
            held.clear()
        self._orphans.clear()
        self._waiting.clear()
        self._sink.clear(self._slot)

    def forget(self) -> None:
        """Clear, and unlearn groups and block sizes: the next process may have others."""
        self.clear()
        self._groups.clear()
        self._indexed.clear()

    def join(self, hashed: int, key: int, group: int = 0) -> None:
        """Learn the key of a block never announced; chains that wait for it get theirs."""
        self._settle([(group, hashed, key)])

    def bound(self, blocks: int) -> None:
        """Tell the number of blocks the engine has: when more copies are counted than that, they are distrusted."""
        self._capacity = blocks
        for group in self._groups.values():
            cell = group.cells.get(DEFAULT_MEDIUM)
            if cell and len(cell.blocks) + cell.blocks.spare > blocks:
                cell.blocks.distrust()
                self.counts["copies-distrusted"] += 1

    @property
    def live(self) -> dict[tuple[str, int], int]:
        """Live blocks by medium and group."""
        return {
            (medium, number): len(cell.blocks)
            for number, group in self._groups.items()
            for medium, cell in group.cells.items()
            if len(cell.blocks)
        }

    @property
    def indexed(self) -> int:
        """Keys in the sink, counted once per tier."""
        return sum(map(len, self._held.values()))

    @property
    def coverage(self) -> float:
        """Share of the engine's GPU memory whose content is known, 0 to 1; 0 until :meth:`bound` was told its size."""
        return min(1.0, len(self._held[GPU]) / self._capacity) if self._capacity else 0.0

    @property
    def orphans(self) -> int:
        """Live blocks that wait for a parent."""
        return len(self._orphans)

    @property
    def block_size(self) -> int:
        """Tokens per block of the groups that are indexed; 0 until an event told."""
        return max((group.block_size for group in self._indexed), default=0)

    def hashes(self, medium: str = DEFAULT_MEDIUM, group: int = 0) -> frozenset[int]:
        """Live engine hashes of one medium and group."""
        found = self._groups.get(group)
        cell = found.cells.get(medium) if found else None
        return frozenset(cell.blocks.hashes()) if cell else frozenset()

    def _store(self, event: BlockStored) -> None:
        group = self._group(event)
        cell = group.cell(event.medium)
        keys = self._keys(event, group)
        new, late = cell.blocks.add(event.hashes, keys, self._max_copies)
        if new and group in self._indexed:
            self._held[cell.tier].hold(cast("Sequence[int]", new))
        if self._waiting or late:
            known = zip(event.hashes, keys, strict=True)
            self._settle([(event.group, hashed, key) for hashed, key in known if key is not None])

    def _group(self, event: BlockStored) -> Group:
        group = self._groups.get(event.group)
        if group is None or (event.kind is not None and event.kind != group.kind):
            group = self._groups.setdefault(event.group, Group())
            group.kind = event.kind
            group.window = event.sliding_window or 0
            self._choose_groups()
        if event.tokens and event.block_size > group.block_size:
            group.block_size = event.block_size
        return group

    def _choose_groups(self) -> None:
        before, self._indexed = self._indexed, prefix_groups(self._groups.values())
        for groups, others, enters in ((before, self._indexed, False), (self._indexed, before, True)):
            for group in groups:
                for cell in group.cells.values() if group not in others else ():
                    held = self._held[cell.tier]
                    keys = cell.blocks.own()
                    held.hold(keys) if enters else held.release(keys)

    def _keys(self, event: BlockStored, group: Group) -> Sequence[int | None]:
        """Own keys by hash; None where there is none yet."""
        blocks = len(event.hashes)
        if event.tokens and blocks and blocks * event.block_size == len(event.tokens):
            if event.parent is None:
                return stored_keys(event, self._model, None)
            parent = self._key_of(event.parent, group, event.block_size)
            if parent is not None:
                return stored_keys(event, self._model, parent)
            self._adopt(event)
        elif event.tokens:
            # A sliding window keeps fewer blocks than the event has tokens for; pairing them would credit wrong ones.
            self.counts["mismatch"] += 1
        return [group.key(hashed) for hashed in event.hashes]

    def _key_of(self, hashed: int, group: Group, block_size: int) -> int | None:
        key = group.key(hashed)
        if key is None and len(self._groups) > 1:
            # The same content has the same hash in every group.
            others = (other.key(hashed) for other in self._groups.values() if other.block_size == block_size)
            key = next((found for found in others if found is not None), None)
        return key

    def _adopt(self, event: BlockStored) -> None:
        assert event.parent is not None
        if all((event.group, hashed) in self._orphans for hashed in event.hashes):
            return
        self.counts["orphan"] += len(event.hashes)
        orphan = _Orphan(event)
        for hashed in event.hashes:
            if (event.group, hashed) in self._orphans:
                orphan.left -= 1
            else:
                self._orphans[event.group, hashed] = orphan
        self._waiting.setdefault((event.group, event.parent), []).append(orphan)
        while len(self._orphans) > self._max_orphans:
            (number, hashed) = next(iter(self._orphans))
            self.counts["orphan-dropped"] += 1
            self._abandon(number, hashed)

    def _abandon(self, group: int, hashed: int) -> None:
        """One block of an orphan is gone; with the last of them the orphan is."""
        orphan = self._orphans.pop((group, hashed), None)
        if orphan is None:
            return
        orphan.left -= 1
        if not orphan.left:
            self._stop_waiting(group, orphan)

    def _stop_waiting(self, group: int, orphan: _Orphan) -> None:
        assert orphan.event.parent is not None
        place = (group, orphan.event.parent)
        waiting = self._waiting.get(place, [])
        if orphan in waiting:
            waiting.remove(orphan)
        if not waiting:
            self._waiting.pop(place, None)

    def _settle(self, known: list[tuple[int, int, int]]) -> None:
        """Give keys to blocks that had none, then to the chains that waited for them."""
        while known:
            number, hashed, key = known.pop()
            group = self._groups.get(number)
            if group is not None:
                for cell in group.cells.values():
                    if cell.blocks.fill(hashed, key) and group in self._indexed:
                        self._held[cell.tier].hold([key])
            self._abandon(number, hashed)
            for orphan in self._waiting.pop((number, hashed), ()):
                keys = stored_keys(orphan.event, self._model, key)
                known += [(number, child, own) for child, own in zip(orphan.event.hashes, keys, strict=True)]

    def _remove(self, event: BlockRemoved) -> None:
        group = self._groups.get(event.group)
        cells: list[Cell] = []
        if group:
            anywhere = event.medium == ANY_MEDIUM
            cells = [cell for medium, cell in group.cells.items() if anywhere or medium == event.medium]
        if group is None or not cells:
            self.counts["removed-unknown"] += len(event.hashes)
            return
        for cell in cells:
            gone, missing, unkeyed = cell.blocks.remove(event.hashes)
            if missing:
                self.counts["removed-unknown"] += missing
            for hashed in unkeyed:
                if not group.live(hashed):
                    self._abandon(event.group, hashed)
            if gone and group in self._indexed:
                self._held[cell.tier].release(gone)
