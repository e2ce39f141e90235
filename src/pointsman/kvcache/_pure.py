"""The Python twin of ``pointsman._speedups``: chained block keys, and the table of who holds which block.

Both give equal results for equal calls and refuse the same arguments; tests hold them to it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

TIERS = 3
MAX_SLOTS = 1 << 16
EVICT = 1024
_ALL_TIERS = (1 << TIERS) - 1
_KEY_LIMIT = 1 << 64
_decode_tokens = msgspec.msgpack.Decoder(list[int]).decode


def chain_bytes(
    data: bytes | bytearray | memoryview, block_bytes: int, seed: int, limit: int | None = None, /
) -> list[int]:
    """Chained keys of the full blocks of ``data``, at most ``limit`` of them.

    Raises:
        TypeError: if ``data`` is no bytes.
        ValueError: if ``block_bytes`` is below 1.
        OverflowError: if ``seed`` is no unsigned 64-bit number.
    """
    view = memoryview(data)
    if block_bytes < 1:
        raise ValueError("a block has at least 1 unit")
    if not 0 <= seed < _KEY_LIMIT:
        raise OverflowError("a key has 64 bits without sign")
    whole = data if isinstance(data, bytes) else view.tobytes()
    count = len(whole) // block_bytes
    if limit is not None and limit < count:
        count = limit
    key, digest = seed, xxh3_64_intdigest
    # The key so far is the hash's seed: half the time of hashing key and bytes joined (44 us for 375 blocks of 64 B).
    return [key := digest(whole[at : at + block_bytes], key) for at in range(0, count * block_bytes, block_bytes)]


def chain_tokens(tokens: Sequence[int], block_tokens: int, parent: int, /) -> list[int]:
    """Chained keys of the full blocks of token ids, each packed into 4 bytes; as :func:`chain_bytes`.

    Raises:
        OverflowError: also if an id needs more than 32 bits.
    """
    if isinstance(tokens, list | tuple):
        tokens = array("I", tokens)
    packed = array("I", _as_view(tokens, 4).tobytes())
    if sys.byteorder == "big":  # pragma: no cover - keys are the same on every machine
        packed.byteswap()
    return chain_bytes(packed.tobytes(), block_tokens * 4, parent)


def chain_packed(tokens: Sequence[int], block_tokens: int, parent: int, /) -> bytes:
    """:func:`chain_tokens` as bytes, 8 of this machine for each key."""
    return array("Q", chain_tokens(tokens, block_tokens, parent)).tobytes()


def unpack_tokens(data: bytes | bytearray | memoryview, /) -> bytes:
    """A MessagePack array of token ids as :func:`chain_tokens` packs them, without a Python number for each.

    Raises:
        TypeError: if ``data`` is no bytes.
        ValueError: if it is anything else than one array of unsigned numbers of at most 32 bits.
    """
    memoryview(data)
    try:
        packed = array("I", _decode_tokens(data))
    except (msgspec.MsgspecError, OverflowError) as error:
        raise ValueError("no MessagePack array of token ids") from error
    if sys.byteorder == "big":  # pragma: no cover
        packed.byteswap()
    return packed.tobytes()


def _as_view(numbers: Any, size: int) -> memoryview:
    view = memoryview(numbers)  # a TypeError of its own when there is no buffer
    if view.ndim != 1 or not view.c_contiguous or view.itemsize != size or view.format not in {"Q", "L", "I"}:
        raise TypeError(f"an array of unsigned integers of {size} bytes is wanted")
    return view


def checked_keys(keys: Sequence[int]) -> Sequence[int]:
    """Keys that can be iterated, refused when one of them is no unsigned 64-bit number."""
    if isinstance(keys, list | tuple):
        array("Q", keys)
        return keys
    return _as_view(keys, 8).tolist()


class BlockTable:
    """Block key to the (slot, tier) pairs that hold it, with a bound on the blocks; the oldest go first.

    A holder set is one int: bit ``3 * slot + tier``. A slot is 0 to 65,535; a tier is 0 (GPU), 1 (CPU), 2 (disk).
    """

    def __init__(self, max_blocks: int = 0) -> None:
        if max_blocks < 0:
            raise ValueError("max_blocks must not be negative")
        self._bound = max_blocks
        self._holders: dict[int, int] = {}  # oldest first
        self._own: list[dict[int, None]] = []  # by slot: its keys
        self._count: list[list[int]] = []  # by slot: entries per tier
        self._members = 0  # bit 3 * slot of every slot in _own
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, roughly: measured on dicts of 10^6 blocks."""
        return 140 * len(self._holders) + 100 * sum(map(len, self._own))

    def store(self, slot: int, tier: int, keys: Sequence[int], /) -> int:
        """Give blocks to a slot's tier; returns how many were new there."""
        _check_place(slot, tier, 0)
        keys = checked_keys(keys)
        if not keys:
            return 0
        self._grow(slot)
        holders, own, bit, stored = self._holders, self._own[slot], 1 << TIERS * slot + tier, 0
        # Tail first, so that within one call the tail is the oldest and goes before its head.
        for key in reversed(keys):
            had = holders.pop(key, 0)  # out and in again: the newest now
            holders[key] = had | bit
            if not had & bit:
                stored += 1
                own[key] = None
        self._count[slot][tier] += stored
        if self._bound and len(holders) > self._bound:
            self._evict()
        return stored

    def discard(self, slot: int, tier: int, keys: Sequence[int], /) -> int:
        """Take blocks from a slot's tier; returns how many were there."""
        _check_place(slot, tier, 0)
        keys = checked_keys(keys)
        return sum(self._take(slot, key, 1 << tier) for key in keys) if slot < len(self._own) else 0

    def clear(self, slot: int, tier: int = -1, /) -> int:
        """Take every block from a slot, or from one tier of it; returns how many entries went."""
        _check_place(slot, tier, -1)
        if slot >= len(self._own):
            return 0
        tiers = _ALL_TIERS if tier < 0 else 1 << tier
        return sum(self._take(slot, key, tiers) for key in list(self._own[slot]))

    def sweep(self, cells: int = -1, /) -> bool:
        """Whether blocks of cleared slots still wait to be taken away: never here."""
        return False

    def touch(self, keys: Sequence[int], /) -> None:
        """Make blocks that are there the newest."""
        holders = self._holders
        for key in reversed(checked_keys(keys)):
            if key in holders:
                holders[key] = holders.pop(key)

    def match(self, keys: Sequence[int], /) -> tuple[list[int], list[int], list[int], int]:
        """Consecutive leading blocks by slot, and of them those in CPU memory and on disk and nowhere better.

        The second and third list are empty when all of it is 0; the last value is the longest match. Exact whatever
        was evicted first: every block is looked at until no slot is left.
        """
        keys = checked_keys(keys)
        width = len(self._own)
        blocks, cpu, disk = [0] * width, [0] * width, [0] * width
        alive, members, get = self._members, self._members, self._holders.get
        value, since, at = -1, 0, 0
        for at, key in enumerate(keys):
            now = get(key, 0)
            if now == value:
                continue
            # Slots can only be lost where the holders change, and mostly they do not.
            if at:
                _split(alive & ~value, value >> 1 & members, at - since, cpu, disk)
            rest = alive & (now | now >> 1 | now >> 2)
            _add(blocks, alive & ~rest, at)
            alive, value, since = rest, now, at
            if not alive:
                break
        else:
            count = len(keys)
            if count:
                _split(alive & ~value, value >> 1 & members, count - since, cpu, disk)
                _add(blocks, alive, count)
        return blocks, cpu if any(cpu) else [], disk if any(disk) else [], max(blocks, default=0)

    def counts(self, slot: int, /) -> tuple[int, int, int, int]:
        """Blocks of a slot, and its entries in GPU memory, CPU memory and on disk."""
        _check_place(slot, 0, 0)
        if slot >= len(self._own):
            return (0, 0, 0, 0)
        gpu, cpu, disk = self._count[slot]
        return len(self._own[slot]), gpu, cpu, disk

    def keys_of(self, slot: int, tier: int = -1, /) -> list[int]:
        """Keys of the blocks that a slot, or one tier of it, holds; in no order."""
        _check_place(slot, tier, -1)
        if slot >= len(self._own):
            return []
        bits = (_ALL_TIERS if tier < 0 else 1 << tier) << TIERS * slot
        return [key for key in self._own[slot] if self._holders[key] & bits]

    def _grow(self, slot: int) -> None:
        while len(self._own) <= slot:
            self._members |= 1 << TIERS * len(self._own)
            self._own.append({})
            self._count.append([0] * TIERS)

    def _take(self, slot: int, key: int, tiers: int) -> int:
        shift = TIERS * slot
        had = self._holders.get(key, 0)
        gone = had >> shift & tiers
        if not gone:
            return 0
        left = had ^ gone << shift
        if left:
            self._holders[key] = left
        else:
            del self._holders[key]
        if not left >> shift & _ALL_TIERS:
            del self._own[slot][key]
        for tier in range(TIERS):
            self._count[slot][tier] -= gone >> tier & 1
        return gone.bit_count()

    def _evict(self) -> None:
        # A 64th at once: finding the oldest key of a dict means stepping over what was deleted before it.
        over = len(self._holders) - (self._bound - min(self._bound // 64, EVICT))
        for key in list(islice(self._holders, over)):
            bits = self._holders[key]
            while bits:
                slot = ((bits & -bits).bit_length() - 1) // TIERS
                self._take(slot, key, _ALL_TIERS)
                bits &= ~(_ALL_TIERS << TIERS * slot)
        self.evicted += over


def _check_place(slot: int, tier: int, lowest_tier: int) -> None:
    if not 0 <= slot < MAX_SLOTS:
        raise ValueError(f"slot {slot} is not within 0 to {MAX_SLOTS - 1}")
    if not lowest_tier <= tier < TIERS:
        raise ValueError(f"tier {tier} is not within 0 to {TIERS - 1}")


def _add(to: list[int], bits: int, value: int) -> None:
    """Add ``value`` for every slot in ``bits`` (at 3 * slot)."""
    while bits:
        low = bits & -bits
        to[(low.bit_length() - 1) // TIERS] += value
        bits ^= low


def _split(rest: int, cpu_bits: int, run: int, cpu: list[int], disk: list[int]) -> None:
    """Book ``run`` blocks for the slots in ``rest``, which do not have them in GPU memory."""
    if rest:
        _add(cpu, rest & cpu_bits, run)
        _add(disk, rest & ~cpu_bits, run)
