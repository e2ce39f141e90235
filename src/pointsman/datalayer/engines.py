"""What each engine calls its metrics, as data.

Names are exact: every counter has a ``_created`` twin, and ``num_requests_waiting`` is the beginning of
``num_requests_waiting_by_reason``. Where an engine has renamed a metric, the newer name comes first and wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace


class Selector(msgspec.Struct, frozen=True):
    """The series of one metric that have certain labels."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a series of this metric is meant."""
        return all(labels.get(name) == value for name, value in self.labels)


Names = tuple[Selector, ...]
"""One quantity, the preferred name first."""


def names(*found: str) -> Names:
    """Selectors without labels."""
    return tuple(Selector(name) for name in found)


class InfoMetric(msgspec.Struct, frozen=True):
    """A metric whose labels carry the facts."""

    selector: Selector
    block_size: str
    """Label with the tokens per KV block."""
    num_blocks: str
    """Label with the number of KV blocks."""
    max_num_seqs: str = "max_num_seqs"


class LabelRules(msgspec.Struct, frozen=True, eq=False):
    """What labels of an engine's series mean. Compared by identity, which makes it a cheap key."""

    rank: str = "engine"
    """Label with the number of the data-parallel rank."""
    shares: tuple[tuple[str, str], ...] = ()
    """Labels that split a total which may stand beside its shares, each with its value on the total."""
    replicas: frozenset[str] = frozenset()
    """Labels of workers that all report the same, so that only one of them counts."""


class Engine(msgspec.Struct, frozen=True, eq=False):
    """One engine's metrics; an empty tuple where it has no such metric. Compared by identity."""

    name: str
    """Value of the label that picks it, as in llm-d where llm-d knows the engine."""
    prefix: str = ""
    """How all of its metrics begin; empty: recognised by the names of its gauges."""
    aliases: tuple[str, ...] = ()
    waiting: Names = ()
    running: Names = ()
    kv_usage: Names = ()
    """Used share of the KV cache, 0 to 1."""
    kv_used: Names = ()
    """Used KV blocks, for pages without the share."""
    prefix_queries: Names = ()
    """Prompt tokens looked up in the prefix cache, since the start."""
    prefix_hits: Names = ()
    prefix_misses: Names = ()
    """For engines that count hits and misses instead of queries."""
    prefix_in_blocks: bool = False
    """Hits and misses are KV blocks."""
    block_size: Names = ()
    """Gauge with the tokens per KV block."""
    num_blocks: Names = ()
    max_num_seqs: Names = ()
    cache_info: InfoMetric | None = None
    lora_info: Selector | None = None
    """Has the labels max_lora, running_lora_adapters and waiting_lora_adapters; its value is the time of the entry."""
    ttft: Names = ()
    """Histogram in seconds, without the suffix ``_bucket``."""
    itl: Names = ()
    labels: LabelRules = LabelRules()
    last_resort: bool = False
    """Only when no other engine is found on the page, because others run inside of it."""

    def names(self, *, histograms: bool = True) -> frozenset[str]:
        """Every metric that is read."""
        found = {selector.name for group in self._groups() for selector in group}
        found |= {self.cache_info.selector.name} if self.cache_info else set()
        found |= {self.lora_info.name} if self.lora_info else set()
        if histograms:
            bases = [selector.name for selector in (*self.ttft, *self.itl)]
            found |= {base + suffix for base in bases for suffix in ("_bucket", "_count", "_sum")}
        return frozenset(found)

    def _groups(self) -> Iterator[Names]:
        yield from (self.waiting, self.running, self.kv_usage, self.kv_used)
        yield from (self.prefix_queries, self.prefix_hits, self.prefix_misses)
        yield from (self.block_size, self.num_blocks, self.max_num_seqs)


VLLM = Engine(
    name="vllm",
    prefix="vllm:",
    waiting=names("vllm:num_requests_waiting"),
    running=names("vllm:num_requests_running"),
    # Renamed in 0.9, the old one left in 0.11.
    kv_usage=names("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    prefix_queries=names("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    prefix_hits=names("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    cache_info=InfoMetric(Selector("vllm:cache_config_info"), "block_size", "num_gpu_blocks"),
    lora_info=Selector("vllm:lora_requests_info"),
    ttft=names("vllm:time_to_first_token_seconds"),
    itl=names("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),  # the latter until 0.14
)

SGLANG = Engine(
    name="sglang",
    prefix="sglang:",
    waiting=names("sglang:num_queue_reqs"),
    running=names("sglang:num_running_reqs"),
    kv_usage=names("sglang:token_usage"),
    prefix_queries=names("sglang:prompt_tokens_total"),
    prefix_hits=names("sglang:cached_tokens_total"),
    block_size=names("sglang:page_size"),
    num_blocks=names("sglang:num_pages"),
    cache_info=InfoMetric(Selector("sglang:cache_config_info"), "page_size", "num_pages"),
    ttft=names("sglang:time_to_first_token_seconds"),
    itl=names("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
    labels=LabelRules(
        rank="dp_rank",
        shares=(("priority", ""), ("cache_source", "total")),
        replicas=frozenset({"tp_rank", "pp_rank", "moe_ep_rank"}),  # --enable-metrics-for-all-schedulers
    ),
)

TRTLLM = Engine(
    name="trtllm-serve",
    prefix="trtllm_",
    aliases=("trtllm",),
    waiting=names("trtllm_num_requests_waiting"),
    running=names("trtllm_num_requests_running"),
    kv_usage=names("trtllm_kv_cache_utilization"),
    kv_used=names("trtllm_kv_cache_used_blocks"),
    prefix_hits=names("trtllm_kv_cache_reused_blocks_total", "trtllm_kv_cache_reused_blocks"),
    prefix_misses=names("trtllm_kv_cache_missed_blocks_total", "trtllm_kv_cache_missed_blocks"),
    prefix_in_blocks=True,
    block_size=names("trtllm_kv_cache_tokens_per_block"),
    num_blocks=names("trtllm_kv_cache_max_blocks"),
    ttft=names("trtllm_time_to_first_token_seconds"),
    itl=names("trtllm_inter_token_latency_seconds", "trtllm_time_per_output_token_seconds"),
)


def _requests(kind: str) -> Names:
    return (Selector("nv_trt_llm_request_metrics", (("request_type", kind),)),)


def _blocks(kind: str) -> Names:
    return (Selector("nv_trt_llm_kv_cache_block_metrics", (("kv_cache_block_type", kind),)),)


TRITON_TRTLLM = Engine(
    name="triton-tensorrt-llm",
    prefix="nv_trt_llm_",
    waiting=_requests("waiting"),
    running=_requests("scheduled"),
    kv_usage=_blocks("fraction"),
    kv_used=_blocks("used"),  # older pages have no fraction
    block_size=_blocks("tokens_per"),
    num_blocks=_blocks("max"),
    max_num_seqs=_requests("max"),
)

TRITON = Engine(
    name="triton",
    prefix="nv_inference_",
    # llm-d takes nv_inference_exec_count for the running ones, but that counts executions since the start.
    waiting=names("nv_inference_pending_request_count"),
    last_resort=True,
)

LLAMA_CPP = Engine(
    name="llama.cpp",
    prefix="llamacpp:",
    aliases=("llamacpp", "llama-cpp"),
    waiting=names("llamacpp:requests_deferred"),
    running=names("llamacpp:requests_processing"),
    kv_usage=names("llamacpp:kv_cache_usage_ratio"),  # gone from newer builds
)

TGI = Engine(
    name="tgi",
    prefix="tgi_",
    aliases=("text-generation-inference",),
    # Its mean time per token includes the prefill, and it has no time to the first token: no latencies from here.
    waiting=names("tgi_queue_size"),
    running=names("tgi_batch_current_size"),
)

Engines = tuple[Engine, ...]

ENGINES: Engines = (VLLM, SGLANG, TRTLLM, TRITON_TRTLLM, TRITON, LLAMA_CPP, TGI)


def detect_engine(page: str, engines: Engines = ENGINES) -> Engine | None:
    """The engine that wrote a metrics page, by the first sample of its own; None when it is none of these.

    An engine that others run inside of (Triton), and names with ``_`` for ``:`` (see :func:`underscored`), are found
    only when there is no other.
    """
    for pattern, by_mark in _detectors(engines):
        if found := pattern.search(page):
            return by_mark[found[1]]
    return None


@lru_cache(maxsize=64)
def underscored(engine: Engine) -> Engine | None:
    """The same engine with ``_`` for ``:`` in its names, as prometheus_client writes them in OpenMetrics' format.

    None when none of its names has a colon.
    """
    if ":" not in "".join(engine.names()):
        return None
    kept = {"name", "labels"}
    fields = {field: getattr(engine, field) for field in engine.__struct_fields__}
    return Engine(**{field: each if field in kept else _without_colons(each) for field, each in fields.items()})


def _without_colons(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(":", "_")
    if isinstance(value, tuple):
        return tuple(_without_colons(each) for each in value)
    if isinstance(value, Selector):
        return Selector(_without_colons(value.name), value.labels)
    if isinstance(value, InfoMetric):
        return replace(value, selector=_without_colons(value.selector))
    return value


@lru_cache(maxsize=16)
def _detectors(engines: Engines) -> list[tuple[re.Pattern[str], dict[str, Engine]]]:
    marks: dict[bool, dict[str, Engine]] = {False: {}, True: {}}
    # The first engine that claims a mark keeps it; prefixes go before whole names.
    for engine in sorted(engines, key=lambda engine: not engine.prefix):
        for mark in _marks(engine):
            marks[engine.last_resort].setdefault(mark, engine)
            if ":" in mark:
                marks[True].setdefault(mark.replace(":", "_"), engine)
    detectors = []
    for by_mark in filter(None, marks.values()):
        found = "|".join(re.escape(mark) + ("" if mark[-1] in ":_" else r"(?=[ \t{])") for mark in by_mark)
        detectors.append((re.compile(r"(?:\A|\n)[ \t]*+(" + found + ")"), by_mark))
    return detectors


def _marks(engine: Engine) -> list[str]:
    if engine.prefix:
        return [engine.prefix]
    return [selector.name for group in (engine.waiting, engine.running, engine.kv_usage) for selector in group]
