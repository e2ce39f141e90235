"""What each engine calls its metrics.

Names are exact: every counter has a ``_created`` twin, and ``num_requests_waiting`` is the beginning of
``num_requests_waiting_by_reason``. Where an engine has renamed a metric, the newer name comes first and wins.
"""

from __future__ import annotations

import re

import msgspec

Names = tuple[str, ...]
"""Names of one quantity, the preferred one first."""


class InfoMetric(msgspec.Struct, frozen=True):
    """A metric whose labels carry the facts."""

    name: str
    block_size: str
    """Label with the tokens per KV block."""
    num_blocks: str
    """Label with the number of KV blocks."""


class Engine(msgspec.Struct, frozen=True):
    """One engine's metric names; an empty tuple where it has no such metric."""

    name: str
    prefix: str
    """How all of its metrics begin."""
    waiting: Names
    running: Names
    kv_usage: Names
    """Used share of the KV cache, 0 to 1."""
    prefix_queries: Names = ()
    """Prompt tokens looked up in the prefix cache, since the start."""
    prefix_hits: Names = ()
    block_size: Names = ()
    """Gauge with the tokens per KV block."""
    num_blocks: Names = ()
    cache_info: InfoMetric | None = None
    lora_info: str | None = None
    """Has the labels max_lora, running_lora_adapters and waiting_lora_adapters; its value is the time of the entry."""

    def names(self) -> frozenset[str]:
        """Every metric that is read."""
        found = {name for group in self._groups() for name in group}
        found |= {self.cache_info.name} if self.cache_info else set()
        found |= {self.lora_info} if self.lora_info else set()
        return frozenset(found)

    def _groups(self) -> tuple[Names, ...]:
        return (
            self.waiting,
            self.running,
            self.kv_usage,
            self.prefix_queries,
            self.prefix_hits,
            self.block_size,
            self.num_blocks,
        )


VLLM = Engine(
    name="vllm",
    prefix="vllm:",
    waiting=("vllm:num_requests_waiting",),
    running=("vllm:num_requests_running",),
    kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # renamed in 0.9, the old one left in 0.11
    prefix_queries=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    prefix_hits=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    cache_info=InfoMetric("vllm:cache_config_info", "block_size", "num_gpu_blocks"),
    lora_info="vllm:lora_requests_info",
)

SGLANG = Engine(
    name="sglang",
    prefix="sglang:",
    waiting=("sglang:num_queue_reqs",),
    running=("sglang:num_running_reqs",),
    kv_usage=("sglang:token_usage",),
    prefix_queries=("sglang:prompt_tokens_total",),
    prefix_hits=("sglang:cached_tokens_total",),
    block_size=("sglang:page_size",),
    num_blocks=("sglang:num_pages",),
    cache_info=InfoMetric("sglang:cache_config_info", "page_size", "num_pages"),
)

TRTLLM = Engine(
    name="trtllm-serve",
    prefix="trtllm_",
    waiting=("trtllm_num_requests_waiting",),
    running=("trtllm_num_requests_running",),
    kv_usage=("trtllm_kv_cache_utilization",),
    block_size=("trtllm_kv_cache_tokens_per_block",),
    num_blocks=("trtllm_kv_cache_max_blocks",),
)

ENGINES: tuple[Engine, ...] = (VLLM, SGLANG, TRTLLM)

_BY_PREFIX = {engine.prefix: engine for engine in ENGINES}
_PREFIX = re.compile(r"(?:\A|\n)[ \t]*+(" + "|".join(re.escape(prefix) for prefix in _BY_PREFIX) + ")")


def detect_engine(page: str) -> Engine | None:
    """The engine that wrote a metrics page, by the first sample of its own; None when it is none of ours."""
    found = _PREFIX.search(page)
    return _BY_PREFIX[found[1]] if found else None
