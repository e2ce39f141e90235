"""Which engine blocks are live where, counted exactly, and how engine terms map to the index's tiers and groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

GPU, CPU, DISK = 0, 1, 2
"""Tiers, fastest first."""

MANY = 8
"""Blocks from which on whole-dict operations pay: 400 blocks are entered in about half of the loop's time."""

_TIERS = {"GPU": GPU, "CPU": CPU, "CPU_PINNED": CPU, "HOST": CPU, "DRAM": CPU}
_FULL_KINDS = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})


class BlockSink(Protocol):
    """Where block keys go: the index."""

    def store(self, slot: int, tier: int, keys: Sequence[int]) -> object:
        """A slot holds these blocks in a tier."""

    def discard(self, slot: int, tier: int, keys: Sequence[int]) -> object:
        """A slot holds them no more there."""

    def clear(self, slot: int, tier: int | None = None) -> object:
        """A slot holds nothing, in one tier or in all."""


def tier_of(medium: str) -> int:
    """Tier of an engine's medium; one never heard of counts as the slowest."""
    return _TIERS.get(medium.upper(), DISK)


class Cell:
    """Live blocks of one group in one medium. Blocks stored twice live until removed twice."""

    __slots__ = ("copies", "keys", "tier")

    def __init__(self, tier: int) -> None:
        self.tier = tier
        self.keys: dict[int, int | None] = {}
        """Live hash to own key; None while the key is not known."""
        self.copies: dict[int, int] = {}
        """Hash to its number of copies, only where that is above 1."""

    def add_all(self, hashes: Sequence[int], keys: Sequence[int | None]) -> bool:
        """Enter many blocks at once, if none of them is live; whether that was done."""
        new = dict(zip(hashes, keys, strict=True))
        if len(new) != len(hashes) or not self.keys.keys().isdisjoint(new):
            return False
        self.keys.update(new)
        return True

    def again(self, hashed: int, most: int | None) -> None:
        """Count another copy of a live block, up to ``most``."""
        count = self.copies.get(hashed, 1) + 1
        if most is None or count <= most:
            self.copies[hashed] = count

    def one_less(self, hashed: int) -> bool:
        """Take away one copy; whether that was the last."""
        count = self.copies.get(hashed)
        if count is None:
            return True
        if count > 2:
            self.copies[hashed] = count - 1
        else:
            del self.copies[hashed]
        return False


class Group:
    """One KV-cache group of an engine: layers that keep the same blocks."""

    __slots__ = ("block_size", "cells", "kind", "window")

    def __init__(self) -> None:
        self.kind: str | None = None
        self.window = 0
        self.block_size = 0
        self.cells: dict[str, Cell] = {}

    def cell(self, medium: str) -> Cell:
        found = self.cells.get(medium)
        if found is None:
            found = self.cells[medium] = Cell(tier_of(medium))
        return found

    def key(self, hashed: int) -> int | None:
        """Own key of a live block, in whichever medium it is known."""
        for cell in self.cells.values():
            key = cell.keys.get(hashed)
            if key is not None:
                return key
        return None

    def live(self, hashed: int) -> bool:
        return any(hashed in cell.keys for cell in self.cells.values())


def prefix_groups(groups: Collection[Group]) -> list[Group]:
    """Groups whose blocks tell a cached prefix: those of full attention, else the ones that look back farthest."""
    full = [group for group in groups if group.kind in _FULL_KINDS]
    if full or not groups:
        return full
    farthest = max(group.window for group in groups)
    return [group for group in groups if group.window == farthest]


class TierKeys:
    """Own keys held in one tier, over all groups and media of it, forwarded to a sink as they come and go."""

    def __init__(self, sink: BlockSink, slot: int, tier: int) -> None:
        self._sink, self._slot, self._tier = sink, slot, tier
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def hold(self, keys: Sequence[int]) -> None:
        counts, new = self._counts, []
        if len(keys) > MANY:
            fresh = dict.fromkeys(keys, 1)
            if len(fresh) == len(keys) and counts.keys().isdisjoint(fresh):
                counts.update(fresh)
                self._sink.store(self._slot, self._tier, keys)
                return
        for key in keys:
            count = counts.get(key)
            if count is None:
                counts[key] = 1
                new.append(key)
            else:
                counts[key] = count + 1
        if new:
            self._sink.store(self._slot, self._tier, new)

    def release(self, keys: Iterable[int]) -> None:
        counts, gone = self._counts, []
        for key in keys:
            count = counts.get(key)
            if count == 1:
                del counts[key]
                gone.append(key)
            elif count is not None:
                counts[key] = count - 1
        if gone:
            self._sink.discard(self._slot, self._tier, gone)

    def clear(self) -> None:
        """Forget all; the caller tells the sink."""
        self._counts.clear()
