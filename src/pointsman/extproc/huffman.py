"""The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B), four bits at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

_EOS = 256

# The code is canonical: codes of one length count up in symbol order. So the lengths of the 257 codes say it all.
LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c"
    "060a0a0c0d06080b0a0a080b080606060505050606060606060607080f060c0a"
    "0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c"
    "1416141416161617161717171717181718181617181717171715161716171718"
    "1615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
    "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a"
    "1e"
)

_Step: TypeAlias = "tuple[int, bytes] | None"


class HuffmanError(ValueError):
    """Bytes that are no Huffman-coded string."""


def codes() -> list[tuple[int, int]]:
    """Code and length in bits of every symbol, the last one being the end-of-string symbol."""
    result = [(0, 0)] * len(LENGTHS)
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(LENGTHS)):
        code <<= length - previous
        result[symbol], previous = (code, length), length
        code += 1
    return result


def decode(data: bytes) -> bytes:
    """Decode a string.

    Raises:
        HuffmanError: when it holds the end-of-string symbol, or its padding is longer than seven bits or not the
            first bits of that symbol, which are ones (section 5.2).
    """
    steps, endings = _machine()
    state, parts = 0, []
    for byte in data:
        for nibble in (byte >> 4, byte & 15):
            step = steps[state][nibble]
            if step is None:
                raise HuffmanError("the end-of-string symbol within a string")
            state = step[0]
            if step[1]:
                parts.append(step[1])
    if state not in endings:
        raise HuffmanError("wrong padding of a string")
    return b"".join(parts)


@lru_cache(maxsize=1)
def _machine() -> tuple[list[list[_Step]], frozenset[int]]:
    """For each state and nibble the next state and the byte that comes out; and the states a string may end in."""
    tree = _tree()
    steps = [[_step(tree, state, nibble) for nibble in range(16)] for state in range(len(tree))]
    endings, state = [0], 0
    for _ in range(7):
        state = tree[state][1]
        endings.append(state)
    return steps, frozenset(endings)


def _tree() -> list[list[int]]:
    """The code as a tree: the child for each bit, a state from 1 on, or ``-1 - symbol`` for a leaf."""
    tree = [[0, 0]]
    for symbol, (code, length) in enumerate(codes()):
        state = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if not tree[state][bit]:
                tree[state][bit] = len(tree)
                tree.append([0, 0])
            state = tree[state][bit]
        tree[state][code & 1] = -1 - symbol
    return tree


def _step(tree: list[list[int]], state: int, nibble: int) -> _Step:
    out = b""
    for shift in (3, 2, 1, 0):
        state = tree[state][nibble >> shift & 1]
        if state < 0:
            symbol = -1 - state
            if symbol == _EOS:
                return None
            out, state = out + bytes((symbol,)), 0
    return state, out
