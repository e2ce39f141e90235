"""Which blocks a sequence has, and from where: the engine's side of the KV cache."""

from __future__ import annotations

from pointsman.sim.kv import BlockPool
from pointsman.sim.profiles import EngineProfile
from pointsman.sim.sequence import Sequence


class Residency:
    """Gives sequences their blocks and lets others find the full ones.

    Args:
        profile: block size and copy times.
        pool: the blocks.
    """

    def __init__(self, profile: EngineProfile, pool: BlockPool) -> None:
        self._profile, self._pool = profile, pool
        self._size = profile.block_size

    def take(self, sequence: Sequence) -> float | None:
        """Blocks for everything the sequence has to compute now, cached ones where there are.

        Blocks of the second tier are copied to the device. Tokens another engine sent need blocks but no computing.

        Returns:
            Milliseconds the copying takes; None and nothing done when the blocks do not fit.
        """
        pool, size = self._pool, self._size
        # The last token is always computed, or there would be nothing to sample from.
        hits = pool.match(sequence.keys, (sequence.target - 1) // size)
        blocks = -(-sequence.target // size)
        found = sequence.keys[:hits]
        away = pool.missing(found) if pool.cpu.capacity else []
        if away:
            pool.cpu.touch(away)
            gone = frozenset(away)
            found = [key for key in found if key not in gone]
        if not pool.acquire(sequence.hold, found, blocks - len(found)):
            return None
        sequence.blocks = blocks
        sequence.registered = len(found) if not away else sequence.keys.index(away[0])
        sequence.computed = hits * size
        self.register(sequence, hits)
        received = min(sequence.request.received, sequence.target - 1)
        if received > sequence.computed:
            sequence.computed = received
            self.register(sequence, received // size)
        return self._profile.restore_ms(len(away)) if away else 0.0

    def register(self, sequence: Sequence, blocks: int) -> None:
        """The sequence's first ``blocks`` blocks are full: let others find them."""
        first = sequence.registered
        if blocks <= first:
            return
        keys = sequence.keys_from(first, blocks, self._size)
        parent = sequence.keys[first - 1] if first else None
        self._pool.commit(sequence.hold, keys, parent, first, sequence.origin)
        sequence.registered = blocks
