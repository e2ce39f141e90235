"""Ideal caches over a sequence of prompts: nothing is computed twice unless the capacity forces it.

All three hold whole blocks of one pool as large as the fleet's caches together, reachable from everywhere, filled the
moment a prompt arrives and never occupied by running requests, nor by answers that nobody asks about.

Each prompt looks up the blocks up to one node of the tree, and leaves those up to another: itself, and what of its
answer later prompts repeat.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from pointsman.lab.oracle_tree import PrefixTree

_NEVER = 1 << 62


class Step(NamedTuple):
    """One prompt: the node at which it ends, and the node up to which it leaves its blocks."""

    end: int
    left: int


def unlimited_hits(tree: PrefixTree, steps: Sequence[Step]) -> list[int]:
    """Blocks each prompt finds when nothing is ever evicted.

    Args:
        tree: all prompts.
        steps: the prompts in order of arrival.
    """
    seen = [False] * len(tree)
    found = []
    for step in steps:
        found.append(sum(tree.size[node] for node in tree.path(step.end) if seen[node]))
        for node in tree.path(step.left):
            seen[node] = True
    return found


def lru_hits(tree: PrefixTree, steps: Sequence[Step], capacity: int) -> list[int]:
    """Blocks each prompt finds in a cache of ``capacity`` blocks that evicts the least recently used.

    A prompt uses all its blocks at once; of those, the last is evicted first, as prefixes are shared.
    """
    size, cached = tree.size, [0] * len(tree)
    order: OrderedDict[int, None] = OrderedDict()
    total = 0
    found = []
    for step in steps:
        found.append(_leading(tree.path(step.end), size, cached))
        for node in tree.path(step.left):
            total += size[node] - cached[node]
            cached[node] = size[node]
            order[node] = None
            order.move_to_end(node)
        while total > capacity:
            node = next(iter(order))
            gone = min(cached[node], total - capacity)
            cached[node] -= gone
            total -= gone
            if not cached[node]:
                del order[node]
    return found


def belady_hits(tree: PrefixTree, steps: Sequence[Step], capacity: int) -> list[int]:
    """Blocks each prompt finds in a cache of ``capacity`` blocks that knows the future.

    It evicts the block needed last, and keeps none that is not needed again (Belady's MIN with bypass): no cache of
    that size finds more, whatever it evicts. A block is needed no later than those behind it, and of blocks needed at
    the same time the last goes first, so what it holds are always whole beginnings of prompts.
    """
    following = _next_uses(tree, steps)
    size, cached = tree.size, [0] * len(tree)
    due = [_NEVER] * len(tree)
    latest: list[tuple[int, int, int]] = []
    total = 0
    found = []
    for step, uses in zip(steps, following, strict=True):
        found.append(_leading(tree.path(step.end), size, cached))
        path = tree.path(step.left)
        for depth, (node, use) in enumerate(zip(path, uses, strict=True), -len(path)):
            due[node] = use
            wanted = size[node] if use != _NEVER else 0
            total += wanted - cached[node]
            cached[node] = wanted
            if wanted:
                heappush(latest, (-use, depth, node))
        while total > capacity:
            use, depth, node = latest[0]
            gone = min(cached[node], total - capacity) if due[node] == -use else 0
            cached[node] -= gone
            total -= gone
            if not gone or not cached[node]:
                heappop(latest)
    return found


def _leading(path: Sequence[int], size: Sequence[int], cached: Sequence[int]) -> int:
    """Cached blocks from the start of a prompt up to the first that is not."""
    hit = 0
    for node in reversed(path):
        hit += cached[node]
        if cached[node] < size[node]:
            break
    return hit


def _next_uses(tree: PrefixTree, steps: Sequence[Step]) -> list[list[int]]:
    """For each prompt, when the nodes it leaves are looked up next."""
    coming = [_NEVER] * len(tree)
    following: list[list[int]] = []
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        following.append([coming[node] for node in tree.path(step.left)])
        for node in tree.path(step.end):
            coming[node] = index
    following.reverse()
    return following
