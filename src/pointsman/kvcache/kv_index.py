"""Which pod holds which prompt blocks and in which tier, as the engines report it, and what we expect after a pick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from math import isnan

import msgspec

from pointsman.kvcache._native import BlockTable
from pointsman.kvcache.residency import CPU, DISK, GPU

__all__ = ["CPU", "DEFAULT_TIER_WEIGHTS", "DISK", "GPU", "KVIndex", "KVIndexStats", "MatchResult"]

DEFAULT_MAX_BLOCKS = 16_000_000
"""Distinct blocks kept: 256 M tokens in blocks of 16, 0.6 GB compiled."""
DEFAULT_MAX_SPECULATIVE = 1_000_000
"""Speculative (slot, block) pairs kept: 1,250 picks of 400 blocks a second for 2 s."""
DEFAULT_TIER_WEIGHTS: Mapping[int, float] = {GPU: 1.0, CPU: 0.8, DISK: 0.5}
"""What a block is worth by tier: a GPU block costs nothing to use, the others a copy."""


class MatchResult(msgspec.Struct, frozen=True):
    """Leading blocks held, by slot. A list may be shorter than a slot asked for: the rest is 0.

    Attributes:
        total: blocks asked for.
        best: the longest match of any slot, reported or speculative.
        confirmed: consecutive leading blocks that the engines report, in any tier.
        cpu: of ``confirmed``, those whose best tier is CPU memory.
        disk: of ``confirmed``, those whose best tier is disk or remote.
        speculative: consecutive leading blocks that recent picks will have left there.
        weights: worth of a block by tier.
    """

    total: int
    best: int
    confirmed: Sequence[int]
    cpu: Sequence[int]
    disk: Sequence[int]
    speculative: Sequence[int]
    weights: tuple[float, float, float]

    def of(self, slot: int) -> int:
        """Leading blocks: the larger of what is reported and what is expected."""
        return max(_at(self.confirmed, slot), _at(self.speculative, slot))

    def blocks(self) -> Sequence[int]:
        """:meth:`of` every slot, as a list."""
        if not self.speculative:
            return self.confirmed
        return [self.of(slot) for slot in range(max(len(self.confirmed), len(self.speculative)))]

    def tiers(self, slot: int) -> tuple[int, int, int]:
        """Reported leading blocks whose best tier is GPU memory, CPU memory, disk."""
        cpu, disk = _at(self.cpu, slot), _at(self.disk, slot)
        return _at(self.confirmed, slot) - cpu - disk, cpu, disk

    def weighted(self, slot: int) -> float:
        """Leading blocks, each worth the weight of its tier; what is only expected will be in GPU memory."""
        (gpu, cpu, disk), weights = self.tiers(slot), self.weights
        expected = max(0, _at(self.speculative, slot) - gpu - cpu - disk)
        return (gpu + expected) * weights[GPU] + cpu * weights[CPU] + disk * weights[DISK]


class KVIndexStats(msgspec.Struct, frozen=True):
    """Size and use of an index.

    Attributes:
        blocks: distinct block keys reported.
        slots: slots that hold something.
        tiers: pairs of slot and block, by tier.
        speculative: pairs of slot and block that are only expected.
        evictions: blocks dropped for want of room since the index was made.
        lookups: blocks asked for since the index was made.
        hits: of them, leading blocks that at least one slot held.
        bytes: memory of the reported blocks; an estimate in pure Python.
    """

    blocks: int
    slots: int
    tiers: tuple[int, int, int]
    speculative: int
    evictions: int
    lookups: int
    hits: int
    bytes: int


class KVIndex:
    """Block key to the slots and tiers that hold it, with no cap on slots per key and a bound on keys.

    A key is held by a (slot, tier) or it is not: storing twice is storing once, and whoever counts copies does so
    before. Compiled, each call is atomic under the interpreter lock, so that one thread may store while another one
    matches; in pure Python, all calls must come from one thread.

    Args:
        max_blocks: bound on distinct keys, at least 1; past it a 64th goes at once, the longest unstored and untouched
            first.
        tier_weights: worth of a block by tier, 0 to 1; a tier left out is worth as little as the lowest given.
        max_speculative: bound on speculative (slot, key) pairs; past it the soonest to expire go.

    Raises:
        ValueError: on a bound below 1 or a weight outside 0 to 1.
    """

    def __init__(
        self,
        max_blocks: int = DEFAULT_MAX_BLOCKS,
        tier_weights: Mapping[int, float] = DEFAULT_TIER_WEIGHTS,
        max_speculative: int = DEFAULT_MAX_SPECULATIVE,
    ) -> None:
        if max_blocks < 1 or max_speculative < 1:
            raise ValueError("an index has room for at least one block")
        if not all(0 <= weight <= 1 for weight in tier_weights.values()):
            raise ValueError("a tier's weight is within 0 and 1")
        lowest = min(tier_weights.values(), default=1.0)
        gpu, cpu, disk = (tier_weights.get(tier, lowest) for tier in (GPU, CPU, DISK))
        self._weights = (gpu, cpu, disk)
        self._reported = BlockTable(max_blocks)
        self._slots: set[int] = set()
        self._lookups = self._hits = 0
        self._expected = BlockTable()
        self._max_speculative = max_speculative
        self._live: dict[int, dict[int, tuple[int, ...]]] = {}  # slot -> serial -> chain
        self._queue: list[tuple[float, int, int]] = []  # heap: expires, serial, slot
        self._serial = self._speculative = 0

    def __len__(self) -> int:
        return len(self._reported)

    def store(self, slot: int, tier: int, keys: Sequence[int]) -> int:
        """A slot holds blocks in a tier now; they become the newest, the head of ``keys`` last.

        Args:
            slot: 0 to 65,535.
            tier: :data:`GPU`, :data:`CPU` or :data:`DISK`.
            keys: unsigned 64-bit, in the order of the prompt; a list, a tuple or an ``array("Q")``.

        Returns:
            How many were not held there before.

        Raises:
            ValueError: on a slot or tier there is not.
            TypeError: on keys that are no numbers.
            OverflowError: on keys that do not fit.
        """
        stored = self._reported.store(slot, tier, keys)
        self._slots.add(slot)
        return stored

    def discard(self, slot: int, tier: int, keys: Sequence[int]) -> int:
        """A slot holds blocks no more in a tier; returns how many it held. Raises as :meth:`store`.

        What is gone from GPU memory is not expected there any more either: the engine's word is younger than the pick.
        Where memory is short, an expectation that outlives its blocks is wrong about every third request.
        """
        if tier == GPU and self._speculative:
            self._speculative -= self._expected.discard(slot, GPU, keys)
        return self._reported.discard(slot, tier, keys)

    def clear(self, slot: int, tier: int | None = None) -> int:
        """A slot holds nothing, in one tier or in all; then nothing is expected of it either.

        Compiled, it takes 0.2 ms at most: the blocks of a slot with more than some 500 are taken away by and by, a
        few with each later call. No match sees them; only memory, :meth:`__len__` and the bound do until then. In one
        tier, and in pure Python, it takes time in proportion to the slot's own blocks (0.1 us each, compiled).

        Returns:
            How many (tier, key) pairs went.
        """
        if tier is not None:
            return self._reported.clear(slot, tier)
        self._speculative -= self._expected.clear(slot)
        self._live.pop(slot, None)
        self._slots.discard(slot)
        return self._reported.clear(slot)

    def touch(self, keys: Sequence[int]) -> None:
        """Blocks are in use: those that are held become the newest."""
        self._reported.touch(keys)

    def match(self, keys: Sequence[int]) -> MatchResult:
        """Consecutive leading blocks by slot; exact, whatever the engines evicted first.

        400 blocks in an index of 512 slots: 20 us compiled, 200 us in Python.
        """
        confirmed, cpu, disk, best = self._reported.match(keys)
        speculative: list[int] = []
        if self._speculative:
            speculative, _, _, expected = self._expected.match(keys)
            best = max(best, expected)
            if not expected:
                speculative = []
        self._lookups += len(keys)
        self._hits += best
        return MatchResult(len(keys), best, confirmed, cpu, disk, speculative, self._weights)

    def speculate(self, slot: int, keys: Sequence[int], expires: float) -> None:
        """A pick will leave these blocks in a slot's GPU memory: believe it until ``expires``.

        Args:
            slot: as in :meth:`store`.
            keys: a chain from its start, so that two of them share their first keys and no others.
            expires: on the clock that :meth:`expire` is given. A key of several chains
                stays as long as the longest.

        Raises:
            ValueError: if ``expires`` is not a number, or as :meth:`store`.
        """
        if isnan(expires):
            raise ValueError("expires must be a number")
        self._speculative += self._expected.store(slot, GPU, keys)
        self._serial += 1
        self._live.setdefault(slot, {})[self._serial] = tuple(keys)
        heappush(self._queue, (expires, self._serial, slot))
        while self._speculative > self._max_speculative:
            self.expire(self._queue[0][0])

    def expire(self, now: float) -> int:
        """Stop expecting what has expired at ``now``; returns how many (slot, key) pairs went."""
        before = self._speculative
        while self._queue and self._queue[0][0] <= now:
            _, serial, slot = heappop(self._queue)
            live = self._live.get(slot, {})
            keys = live.pop(serial, None)
            if keys is None:
                continue  # the slot was cleared
            self._speculative -= self._expected.discard(slot, GPU, keys[_shared(keys, live.values()) :])
            if not live:
                del self._live[slot]
        return before - self._speculative

    def memory_blocks(self, slot: int) -> int:
        """Distinct blocks that a slot is reported to hold, in any tier."""
        return self._reported.counts(slot)[0]

    def tier_blocks(self, slot: int) -> tuple[int, int, int]:
        """Blocks that a slot is reported to hold in GPU memory, CPU memory and on disk."""
        return self._reported.counts(slot)[1:]

    def keys_of(self, slot: int, tier: int | None = None) -> list[int]:
        """Keys of the blocks that a slot, or one tier of it, is reported to hold; in no order. For snapshots."""
        return self._reported.keys_of(slot) if tier is None else self._reported.keys_of(slot, tier)

    def stats(self) -> KVIndexStats:
        """Size and use, for metrics."""
        counts = [self._reported.counts(slot) for slot in self._slots]
        return KVIndexStats(
            blocks=len(self._reported),
            slots=sum(1 for count in counts if count[0]),
            tiers=(sum(c[1] for c in counts), sum(c[2] for c in counts), sum(c[3] for c in counts)),
            speculative=self._speculative,
            evictions=self._reported.evicted,
            lookups=self._lookups,
            hits=self._hits,
            bytes=self._reported.nbytes,
        )


def _at(numbers: Sequence[int], slot: int) -> int:
    return numbers[slot] if slot < len(numbers) else 0


def _shared(chain: tuple[int, ...], others: Iterable[tuple[int, ...]]) -> int:
    """Leading keys that at least one other chain has too. A dict of keys per slot would cost 40 us more per pick."""
    found, count = 0, len(chain)
    for other in others:
        low, high = found, min(count, len(other))
        # Equal at one place means equal before it: a chain that differs at `found` has nothing to add.
        if low < high and chain[low] == other[low]:
            while low < high:
                middle = (low + high) // 2
                if chain[middle] == other[middle]:
                    low = middle + 1
                else:
                    high = middle
            found = low
    return found
