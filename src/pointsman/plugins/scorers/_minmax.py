from __future__ import annotations

from collections.abc import Sequence


def fewest_best(values: Sequence[int]) -> list[float]:
    """``(max - value) / (max - min)``: 1 for the smallest, 0 for the largest, 1 for all when they are equal."""
    if not values:
        return []
    low, high = min(values), max(values)
    if low == high:
        return [1.0] * len(values)
    return [(high - value) / (high - low) for value in values]
