"""Numbers of an endpoint by name: gauges, work in flight, labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.errors import ConfigError
from pointsman.framework.gauges import gauges, kv_usage
from pointsman.framework.plugin import Handle

Reader = Callable[[Endpoint], float | None]

AttributeName = Annotated[
    str,
    Meta(
        description="What to look at; must be given. num_requests_waiting, num_requests_running, kv_cache_usage_perc "
        "(corrected by the ledger), num_gpu_blocks, block_size, max_num_seqs, active_requests, inflight_tokens; any "
        "other name is a label of the endpoint with a number in it."
    ),
]
AttributeProducer = Annotated[
    str,
    Meta(
        description="llm-d's source of it: empty, core-metrics-extractor or inflight-load-producer; others are refused."
    ),
]

_PRODUCERS = ("", "core-metrics-extractor", "inflight-load-producer")

_NUMBERS: Mapping[str, Callable[[Endpoint, Handle], float | None]] = {
    "num_requests_waiting": lambda endpoint, handle: gauges(endpoint, handle).waiting,
    "num_requests_running": lambda endpoint, handle: gauges(endpoint, handle).running,
    "kv_cache_usage_perc": kv_usage,
    "num_gpu_blocks": lambda endpoint, _: endpoint.metrics.num_blocks,
    "block_size": lambda endpoint, _: endpoint.metrics.block_size,
    "max_num_seqs": lambda endpoint, _: endpoint.metrics.max_num_seqs,
    "active_requests": lambda endpoint, handle: handle.inflight.load(endpoint.id).requests,
    "inflight_tokens": lambda endpoint, handle: handle.inflight.load(endpoint.id).tokens,
}


def attribute_reader(name: str, producer: str, handle: Handle) -> Reader:
    """How to read an attribute; the reader answers None for an endpoint that has none.

    Raises:
        ConfigError: if no attribute is named, or a source that there is not.
    """
    if not name:
        raise ConfigError("parameters.attribute must be given", hint="such as num_requests_waiting, or a label")
    if producer not in _PRODUCERS:
        known = " or ".join(_PRODUCERS[1:])
        raise ConfigError(f"parameters.producer: there is no {producer!r} here", hint=f"leave it out, or give {known}")
    number = _NUMBERS.get(name.rpartition(":")[2])  # vllm:num_requests_waiting is what the engine's page calls it
    if number is not None:
        read = number
        return lambda endpoint: read(endpoint, handle)
    return lambda endpoint: _number(endpoint.labels.get(name))


def _number(text: str | None) -> float | None:
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
