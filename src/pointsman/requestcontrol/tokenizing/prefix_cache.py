"""Token ids of pieces of text, so that a growing conversation only has its new tail tokenized.

A piece's tokens depend on nothing but its text (see :mod:`.cuts`), so pieces are kept by text, not by conversation:
a system prompt is tokenized once for all who use it. Texts are keys as they are: a hash could collide.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import TypeAlias

Tokens: TypeAlias = "array[int]"
"""Packed u32 token ids: 4 bytes each where a list of ints takes up to 36."""

ENTRY_BYTES = 300
"""About what an entry costs beside its text and ids (measured: dict slot, str, array and tuple headers)."""


class PieceCache:
    """LRU of pieces, bounded by bytes. Safe to use from several threads."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[Tokens, int]] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Memory in use, about."""
        return self._bytes

    def get(self, texts: Sequence[str]) -> list[Tokens | None]:
        """Ids of each piece, None for the unknown."""
        found: list[Tokens | None] = []
        with self._lock:
            for text in texts:
                entry = self._entries.get(text)
                if entry is not None:
                    self._entries.move_to_end(text)
                found.append(None if entry is None else entry[0])
            unknown = found.count(None)
            self.hits += len(found) - unknown
            self.misses += unknown
        return found

    def put(self, pairs: Iterable[tuple[str, Tokens]]) -> None:
        """Remember pieces; the ones used longest ago make room."""
        with self._lock:
            for text, ids in pairs:
                size = ENTRY_BYTES + _text_bytes(text) + len(ids) * ids.itemsize
                if text in self._entries or size > self._capacity:
                    continue
                self._entries[text] = ids, size
                self._bytes += size
            while self._bytes > self._capacity:
                _, (_, size) = self._entries.popitem(last=False)
                self._bytes -= size


def _text_bytes(text: str) -> int:
    # Python keeps 1, 2 or 4 bytes per character, by the widest one.
    if text.isascii():
        return len(text)
    return len(text) * (4 if max(text) > "\uffff" else 2)
