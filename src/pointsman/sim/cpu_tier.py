"""A second tier of one simulated engine's KV cache, in the memory of the host.

What the device evicts goes here, least recently used out first. A hit is copied back and stays here as well, so that
its next eviction from the device copies nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class CpuTier:
    """At most ``capacity`` blocks, by key."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.blocks: OrderedDict[int, None] = OrderedDict()
        """Oldest first."""

    def put(self, keys: Sequence[int]) -> tuple[list[int], list[int]]:
        """Take what the device evicted, in that order.

        Returns:
            The keys that were not here, and those that had to go for them. Of more keys than fit, the last stay.
        """
        blocks = self.blocks
        stored: list[int] = []
        for key in keys[-self.capacity :]:
            if key in blocks:
                blocks.move_to_end(key)
            else:
                blocks[key] = None
                stored.append(key)
        removed = [blocks.popitem(last=False)[0] for _ in range(len(blocks) - self.capacity)]
        return stored, removed

    def touch(self, keys: Sequence[int]) -> None:
        """They were hit: the end of a prompt goes before its beginning."""
        for key in reversed(keys):
            self.blocks.move_to_end(key)

    def clear(self) -> None:
        self.blocks.clear()
