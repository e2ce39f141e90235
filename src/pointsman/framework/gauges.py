"""What an engine's gauges say now: the reading, corrected by what our own ledger has seen since.

A reading is old by up to a period, and within it a burst of picks would all go to the pod that was the emptiest at its
beginning. So requests picked since the reading are added, and those ended since are taken off. A reading that has
grown stale says nothing any more: then the ledger alone speaks. Silence never makes a pod look full.
"""

from __future__ import annotations

from typing import NamedTuple

from pointsman.api.endpoint import NO_GROWTH, Endpoint, EndpointMetrics, Growth
from pointsman.framework.plugin import Handle, InflightView

DEFAULT_CAPACITY_TOKENS = 300_000
"""Size of a KV cache while the pod does not say: 80 GB of memory under a model of 8 billion parameters, about."""
DEFAULT_OUTPUT_TOKENS = 256


class Gauges(NamedTuple):
    """Requests at an endpoint, as of now."""

    waiting: int
    running: int


def is_fresh(metrics: EndpointMetrics, now: float) -> bool:
    """Whether the gauges still say something: read less than ``good_for`` seconds ago."""
    return now - metrics.updated < metrics.good_for


def gauges(endpoint: Endpoint, handle: Handle) -> Gauges:
    """Waiting and running requests of an endpoint."""
    metrics = endpoint.metrics
    if not is_fresh(metrics, handle.clock.now()):
        load = handle.inflight.load(endpoint.id)
        return Gauges(load.requests - load.decoding, load.decoding)
    growth = handle.inflight.since(endpoint.id, metrics.updated)
    if growth is NO_GROWTH:
        return Gauges(metrics.waiting, metrics.running)
    return corrected(metrics, growth)


def corrected(metrics: EndpointMetrics, growth: Growth) -> Gauges:
    """A reading with what happened since.

    An engine with a queue fills every place that falls free, so that what ended since is taken off the queue first.
    """
    left = metrics.waiting - growth.ended
    return Gauges(max(0, left) + growth.pending, max(0, metrics.running + min(0, left)) + growth.decoding)


def kv_usage(
    endpoint: Endpoint,
    handle: Handle,
    *,
    output_tokens: float = DEFAULT_OUTPUT_TOKENS,
    default_capacity: int = DEFAULT_CAPACITY_TOKENS,
) -> float:
    """Used share of an endpoint's KV cache, 0 to 1.

    What a request adds is taken as its uncached prompt plus half its expected output, the same that
    ``kv-pressure-cost`` charges for the request it rates. Without a fresh reading all prompt tokens in flight count,
    which is too much where they share a prefix.

    Args:
        endpoint: which one.
        handle: for the clock and the ledger.
        output_tokens: expected output of a request.
        default_capacity: tokens the cache holds while the metrics do not say.
    """
    metrics = endpoint.metrics
    capacity = capacity_tokens(metrics, default_capacity)
    if not is_fresh(metrics, handle.clock.now()):
        return _by_ledger(endpoint, handle.inflight, capacity, output_tokens)
    growth = handle.inflight.since(endpoint.id, metrics.updated)
    if growth is NO_GROWTH:
        return metrics.kv_usage
    came = growth.pending + growth.decoding
    tokens = growth.tokens - growth.ended_tokens + 0.5 * output_tokens * (came - growth.ended)
    return min(1.0, max(0.0, metrics.kv_usage + tokens / capacity))


def capacity_tokens(metrics: EndpointMetrics, default: int = DEFAULT_CAPACITY_TOKENS) -> int:
    """Tokens that an endpoint's KV cache holds."""
    return (metrics.num_blocks or 0) * (metrics.block_size or 0) or default


def _by_ledger(endpoint: Endpoint, inflight: InflightView, capacity: int, output_tokens: float) -> float:
    load = inflight.load(endpoint.id)
    return min(1.0, (load.context_tokens + 0.5 * output_tokens * load.requests) / capacity)
