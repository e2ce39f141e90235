"""A sink as plain as can be."""

from __future__ import annotations

from collections.abc import Sequence


class DictSink:
    """Keys by slot and tier; strict, so that a view's bookkeeping is checked with it."""

    def __init__(self) -> None:
        self.keys: dict[tuple[int, int], set[int]] = {}

    def store(self, slot: int, tier: int, keys: Sequence[int]) -> None:
        held = self.keys.setdefault((slot, tier), set())
        assert not held & set(keys), "stored twice"
        assert len(set(keys)) == len(keys)
        held.update(keys)

    def discard(self, slot: int, tier: int, keys: Sequence[int]) -> None:
        held = self.keys[slot, tier]
        assert held >= set(keys), "discarded without being there"
        held.difference_update(keys)

    def clear(self, slot: int, tier: int | None = None) -> None:
        for place in list(self.keys):
            if place[0] == slot and tier in {None, place[1]}:
                del self.keys[place]

    def tiers(self, slot: int) -> dict[int, int]:
        """Number of keys by tier, where there are any."""
        return {tier: len(keys) for (owner, tier), keys in self.keys.items() if owner == slot and keys}

    def leading(self, slot: int, keys: Sequence[int]) -> int:
        """Leading keys held in any tier."""
        held: set[int] = set().union(*(found for (owner, _), found in self.keys.items() if owner == slot))
        return next((at for at, key in enumerate(keys) if key not in held), len(keys))
