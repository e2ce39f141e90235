"""The typed values that plugins of this package exchange through the CycleState."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pointsman.framework.state import StateKey


class PrefixMatch(msgspec.Struct, frozen=True):
    """How much of the prompt each endpoint is believed to hold.

    Attributes:
        block_tokens: tokens per block.
        total_blocks: blocks of the prompt.
        blocks: consecutive leading blocks held, by ``Endpoint.slot``; a slot past the end holds none.
    """

    block_tokens: int
    total_blocks: int
    blocks: Sequence[int] = ()

    def of(self, slot: int) -> int:
        """Leading blocks that the endpoint in ``slot`` holds."""
        return self.blocks[slot] if slot < len(self.blocks) else 0

    def share(self, slot: int) -> float:
        """Matched share of the prompt's blocks, 0 to 1; 0 for a prompt shorter than a block."""
        return self.of(slot) / self.total_blocks if self.total_blocks else 0.0

    def tokens(self, slot: int) -> int:
        """Matched tokens."""
        return self.of(slot) * self.block_tokens


def prefix_match_key(producer: str) -> StateKey[PrefixMatch]:
    """The key under which the producer of that name writes its match."""
    return StateKey(f"prefix-match/{producer}")


APPROX_PREFIX_PRODUCER = "approx-prefix-cache-producer"
PRECISE_PREFIX_PRODUCER = "precise-prefix-cache-producer"
INFLIGHT_PRODUCER = "inflight-load-producer"
