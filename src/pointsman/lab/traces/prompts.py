"""Prompts made of what a trace tells about them: deterministic token ids, the same for the same names."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from functools import lru_cache

from pointsman.lab.traces.rows import BlockId, TraceRow

_BYTES = 4  # a token
_REMEMBERED = 16_384
"""Blocks whose tokens are kept: 32 MB of 512-token blocks."""


class Prompts:
    """Token ids by name. Every bit comes from SHAKE-128 of the name: 2 us a block of 64, 130 us for 12,000 tokens.

    The output of SHAKE is endless and each beginning of it the same, so of two prompts of one stream the shorter is a
    prefix of the longer.

    Args:
        salt: another salt gives prompts that have nothing in common with these.
    """

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._block = lru_cache(_REMEMBERED)(self._make)

    def _make(self, name: str, tokens: int) -> bytes:
        return hashlib.shake_128(f"{self._salt}/{name}".encode()).digest(_BYTES * tokens)

    def stream(self, name: str, tokens: int) -> array[int]:
        """The first tokens of a stream."""
        return array("I", self._make(f"s/{name}", tokens))

    def blocks(self, scope: str, ids: Iterable[BlockId], size: int) -> array[int]:
        """Blocks one after the other."""
        return array("I", b"".join([self._block(f"b/{scope}/{name}", size) for name in ids]))

    def of(self, row: TraceRow, name: str, ids: Iterable[BlockId], known: array[int] | None = None) -> array[int]:
        """The prompt of a row by itself: cut, or continued with tokens of its own, to the row's length; at least one.

        Args:
            row: whose.
            name: of the request, for what is its own.
            ids: of the blocks after ``known``.
            known: tokens the prompt begins with.
        """
        length = max(1, row.input_length)
        if row.text is not None:
            found = array("I", row.text)
        elif row.block and (known is not None or row.ids or row.keep):
            found = (known or array("I")) + self.blocks(row.scope, ids, row.block)
        elif row.stream:
            return self.stream(row.stream, length)
        else:
            found = array("I")
        if len(found) > length:
            return found[:length]
        if len(found) < length:
            found += self.stream(f"own/{name}", length - len(found))
        return found
