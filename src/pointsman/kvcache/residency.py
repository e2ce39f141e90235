"""Which engine blocks are live where, counted exactly, and how engine terms map to the index's tiers and groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from pointsman.kvcache._native import BlockMap, KeyCounts

GPU, CPU, DISK = 0, 1, 2
"""Tiers, fastest first."""

TIER_NAMES = {
    "GPU": GPU,
    "HBM": GPU,
    "CPU": CPU,
    "CPU_PINNED": CPU,
    "HOST": CPU,
    "DRAM": CPU,
    "DISK": DISK,
    "STORAGE": DISK,
    "SHARED_STORAGE": DISK,
    "FS": DISK,
    "OBJ": DISK,
    "EXTERNAL": DISK,
    "REMOTE": DISK,
}
"""Names of tiers, in capitals: those of vLLM's and SGLang's events, and of configurations for llm-d."""

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
    return TIER_NAMES.get(medium.upper(), DISK)


class Cell:
    """Live blocks of one group in one medium. Blocks stored twice live until removed twice."""

    __slots__ = ("blocks", "tier")

    def __init__(self, tier: int) -> None:
        self.tier = tier
        self.blocks = BlockMap()
        """By hash; 60 B a block with :class:`TierKeys` where dicts took 230."""


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
            key = cell.blocks.get(hashed)
            if key is not None:
                return key
        return None

    def live(self, hashed: int) -> bool:
        return any(hashed in cell.blocks for cell in self.cells.values())


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
        self._counts = KeyCounts()

    def __len__(self) -> int:
        return len(self._counts)

    def hold(self, keys: Sequence[int]) -> None:
        new = self._counts.hold(keys)
        if new:
            self._sink.store(self._slot, self._tier, new)

    def release(self, keys: Sequence[int]) -> None:
        gone = self._counts.release(keys)
        if gone:
            self._sink.discard(self._slot, self._tier, gone)

    def clear(self) -> None:
        """Forget all; the caller tells the sink."""
        self._counts = KeyCounts()
