"""The typed values that plugins of this package exchange through the CycleState."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.framework.kv import RemoteMatches
from pointsman.framework.state import StateKey


class PrefixMatch(msgspec.Struct, frozen=True):
    """How much of the prompt each endpoint is believed to hold.

    Attributes:
        block_tokens: tokens per block.
        total_blocks: blocks of the prompt.
        blocks: consecutive leading blocks held, by ``Endpoint.slot``; a slot past the end holds none.
        worth: what these are worth to scorers, in blocks, where tiers slower than GPU memory count for less; by slot
            and as long as ``blocks``. Empty: all count in full.
        slower: of the tokens held, those whose best tier is CPU memory and those on disk or remote, by slot; a slot
            that holds all of its own in GPU memory is left out.
    """

    block_tokens: int
    total_blocks: int
    blocks: Sequence[int] = ()
    worth: Sequence[float] = ()
    slower: Mapping[int, tuple[int, int]] = {}

    def of(self, slot: int) -> int:
        """Leading blocks that the endpoint in ``slot`` holds."""
        return self.blocks[slot] if slot < len(self.blocks) else 0

    def share(self, slot: int) -> float:
        """Matched share of the prompt's blocks, each by the worth of its tier, 0 to 1; 0 for less than a block."""
        return self.worth_of(slot) / self.total_blocks if self.total_blocks else 0.0

    def worth_of(self, slot: int) -> float:
        """Worth of :meth:`of`, in blocks."""
        worth = self.worth or self.blocks
        return worth[slot] if slot < len(worth) else 0

    def tokens(self, slot: int) -> int:
        """Matched tokens, whatever tier they are in: so many need no prefill."""
        return self.of(slot) * self.block_tokens


def prefix_match_key(producer: str) -> StateKey[PrefixMatch]:
    """The key under which the producer of that name writes its match."""
    return StateKey(f"prefix-match/{producer}")


APPROX_PREFIX_PRODUCER = "approx-prefix-cache-producer"
PRECISE_PREFIX_PRODUCER = "precise-prefix-cache-producer"
INFLIGHT_PRODUCER = "inflight-load-producer"
REMOTE_PREFIX_PRODUCER = "remote-prefix-cache-producer"

REMOTE_MATCHES: StateKey[RemoteMatches] = StateKey("remote-matches")
"""What indexers elsewhere answered; written by the Director before producers run, when any did."""


class LatencyPrediction(msgspec.Struct, frozen=True, gc=False):
    """What one request would see at one endpoint; milliseconds throughout.

    A headroom is the objective minus the prediction: negative when it would be missed. Without any objective both are
    the negated prediction, so that less is still better; an objective missing beside the other has headroom 0.
    """

    ttft_ms: float
    tpot_ms: float
    ttft_headroom_ms: float
    tpot_headroom_ms: float

    @property
    def positive(self) -> bool:
        """Whether both objectives would be met."""
        return self.ttft_headroom_ms >= 0 and self.tpot_headroom_ms >= 0


PREDICTED_LATENCY_PRODUCER = "predicted-latency-producer"


def latency_prediction_key(producer: str = PREDICTED_LATENCY_PRODUCER) -> StateKey[Mapping[int, LatencyPrediction]]:
    """The key under which the producer of that name writes predictions by ``Endpoint.slot``; a slot may be missing."""
    return StateKey(f"latency-prediction/{producer}")


SESSION_ID_KEY: StateKey[str] = StateKey("session-id")
"""The session that a request says it belongs to; written only when it says one."""


def request_attribute_key(name: str) -> StateKey[str]:
    """The key of a text that a plugin found out about the request, such as ``agent-identity``; written when there."""
    return SESSION_ID_KEY if name == SESSION_ID_KEY.name else StateKey(f"request-attribute/{name}")


PEER_ENDPOINT_KEY: StateKey[Endpoint] = StateKey("peer-endpoint")
"""The endpoint chosen for the request's other stage (the decode endpoint while prefill is scheduled)."""
