"""What can answer: endpoints and what is known of them, as immutable snapshots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NewType

import msgspec

EndpointId = NewType("EndpointId", str)
"""``namespace/name``; with several target ports or data-parallel ranks ``namespace/name-rank-N``, as in llm-d."""

MODEL_LABEL = "model-id"
"""Label that names the base model a pod serves."""


class LoraState(msgspec.Struct, frozen=True):
    """Adapters of one endpoint. ``capacity`` is how many fit on the device at once; 0 means LoRA is off or unknown."""

    capacity: int = 0
    running: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    available: frozenset[str] = frozenset()
    """Adapters the server answers for (``/v1/models``), on the device or not."""

    def knows(self, adapter: str) -> bool:
        return adapter in self.running or adapter in self.waiting or adapter in self.available


class Quantiles(msgspec.Struct, frozen=True):
    """Of one latency over the last while, in seconds."""

    p50: float
    p95: float
    count: int
    """Observations behind them."""


class EndpointMetrics(msgspec.Struct, frozen=True):
    """Gauges an engine reports, and when. ``updated`` is in seconds of the picker's clock, -inf when never."""

    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0
    """Used share of the KV cache, 0 to 1."""
    block_size: int | None = None
    """Tokens per KV block."""
    num_blocks: int | None = None
    max_num_seqs: int | None = None
    lora: LoraState = LoraState()
    prefix_queries: float = 0.0
    """Prompt tokens looked up in the prefix cache since the engine started."""
    prefix_hits: float = 0.0
    """Of them, tokens found."""
    models: frozenset[str] = frozenset()
    """Base models the server answers for (``/v1/models``)."""
    engine: str = ""
    """Which engine wrote the page, ``""`` while nobody knows."""
    ranks: int = 1
    """Data-parallel ranks behind the port; counts are their sums, ``kv_usage`` their mean."""
    ttft: Quantiles | None = None
    """Time to first token as the engine measured it, from the growth of its histogram."""
    itl: Quantiles | None = None
    """Time between two output tokens, ditto."""
    source: str = ""
    """Where the gauges came from last: ``scrape``, ``promql``, ``orca``, ``loads``; ``""`` for never."""
    updated: float = -math.inf
    good_for: float = 2.0
    """Seconds after ``updated`` for which the gauges count as fresh: three periods of their source, at least 2."""

    def age(self, now: float) -> float:
        """Seconds since the last successful reading; inf when there was none."""
        return now - self.updated


class Endpoint(msgspec.Struct, frozen=True):
    """One model server port, as of one moment.

    ``slot`` is a small number that stays the endpoint's own while it exists; indexes keep arrays and bit sets by slot.
    It is handed to another endpoint only after ``endpoint_removed`` was told to every plugin.
    """

    id: EndpointId
    address: str
    """IP address (or a name the proxy can resolve)."""
    port: int
    slot: int = 0
    labels: Mapping[str, str] = {}
    metrics: EndpointMetrics = EndpointMetrics()
    healthy: bool = True
    hostport: str = ""
    """``ip:port`` as the proxy wants it; filled in when left empty."""

    def __post_init__(self) -> None:
        if not self.hostport:
            host = f"[{self.address}]" if ":" in self.address else self.address
            msgspec.structs.force_setattr(self, "hostport", f"{host}:{self.port}")


class InflightLoad(msgspec.Struct):
    """Work handed to an endpoint and not yet seen to end, from our own ledger. Read it, never keep or change it."""

    requests: int = 0
    """Requests in flight."""
    tokens: int = 0
    """Uncached prompt tokens whose prefill is not known to have ended."""
    prefill_ms: float = 0.0
    """Estimated prefill work still ahead, in engine milliseconds."""
    decoding: int = 0
    """Requests believed to be producing tokens."""
    context_tokens: int = 0
    """Prompt tokens of all requests in flight: what their KV blocks hold at least."""
    last_picked: int = 0
    """Sequence number of the last pick of this endpoint; smaller is longer ago, 0 never."""


NO_LOAD = InflightLoad()


class Growth(msgspec.Struct, frozen=True):
    """How an endpoint's work has changed since a moment, from our own ledger."""

    pending: int = 0
    """Requests picked since and still in flight, whose prefill is not known or believed to have ended."""
    decoding: int = 0
    """Requests picked since and still in flight, believed to be producing tokens."""
    tokens: int = 0
    """Uncached prompt tokens of both."""
    ended: int = 0
    """Requests in flight at that moment that have ended since."""
    ended_tokens: int = 0
    """Their uncached prompt tokens."""


NO_GROWTH = Growth()
