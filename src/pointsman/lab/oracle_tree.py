"""Prompts as one compressed tree: which leading blocks they share.

A stretch of blocks that the same requests ask for is one node, however long. A cache that drops the least recently
used block, or the one needed last, drops a node from its end, so such caches are simulated on nodes instead of blocks:
tens of thousands of steps where a trace has millions of blocks.
"""

from __future__ import annotations

from array import array

ROOT = 0


class PrefixTree:
    """Chained block keys of many prompts.

    A key stands for its block and all before it, so two prompts that share a key share everything up to there.
    Memory: 8 bytes for each block that differs from all others, and about 300 for each node.

    Attributes:
        parent: of each node; the root's is itself.
        size: blocks of each node; the root has none.
    """

    def __init__(self) -> None:
        self.parent = [ROOT]
        self.size = [0]
        self._keys = [array("Q")]
        self._by_first: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.parent)

    def insert(self, keys: array[int]) -> int:
        """Add a prompt's keys (``array("Q")``).

        Returns:
            The node at whose end the prompt ends; it stays that as the tree grows.
        """
        node, at, total = ROOT, 0, len(keys)
        while at < total:
            child = self._by_first.get(keys[at])
            if child is None:
                return self._new(node, keys[at:])
            shared = _shared(self._keys[child], keys, at)
            if shared < self.size[child]:
                child = self._split(child, shared)
            node = child
            at += shared
        return node

    def reach(self, node: int, keys: array[int]) -> int:
        """How far the tree knows the blocks behind a node.

        Args:
            node: where a prompt ends.
            keys: of what comes behind it.

        Returns:
            The node at whose end the known part ends; ``node`` itself when nothing is known.
        """
        at = 0
        while at < len(keys) and (child := self._by_first.get(keys[at])) is not None:
            shared = _shared(self._keys[child], keys, at)
            node = child if shared == self.size[child] else self._split(child, shared)
            at += shared
        return node

    def path(self, node: int) -> list[int]:
        """The node and those before it, the first block's last; without the root."""
        parent = self.parent
        found = []
        while node != ROOT:
            found.append(node)
            node = parent[node]
        return found

    def _new(self, parent: int, keys: array[int]) -> int:
        number = len(self.parent)
        self.parent.append(parent)
        self.size.append(len(keys))
        self._keys.append(keys)
        self._by_first[keys[0]] = number
        return number

    def _split(self, node: int, at: int) -> int:
        """Cut a node in two; the new one holds its beginning."""
        keys = self._keys[node]
        upper = self._new(self.parent[node], keys[:at])
        self.parent[node] = upper
        self.size[node] = len(keys) - at
        self._keys[node] = keys[at:]
        self._by_first[keys[at]] = node
        return upper


def _shared(known: array[int], keys: array[int], at: int) -> int:
    """How many keys of a node a prompt goes on with. Keys are chained, so the first difference can be bisected."""
    low, high = 1, min(len(known), len(keys) - at)
    if known[high - 1] == keys[at + high - 1]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if known[middle - 1] == keys[at + middle - 1]:
            low = middle
        else:
            high = middle
    return low
