"""vLLM 0.32's metric families: names, help texts, labels, and where the simulated engine has their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pointsman.sim.stats import EngineStats, Histogram

Value = Callable[[EngineStats], float]


def _zero(_: EngineStats) -> float:
    return 0.0


class Scalar(NamedTuple):
    """A gauge, or a counter with its ``_created`` twin; one sample per value of ``label``, if it has one."""

    kind: str
    name: str
    help: str
    samples: tuple[tuple[str, Value], ...]
    label: str = ""
    has_engine: bool = True


class Distribution(NamedTuple):
    """A histogram."""

    name: str
    help: str
    value: Callable[[EngineStats], Histogram]


def _counter(name: str, text: str, value: Value = _zero) -> Scalar:
    return Scalar("counter", name, text, (("", value),))


def _gauge(name: str, text: str, value: Value) -> Scalar:
    return Scalar("gauge", name, text, (("", value),))


_MFU = "(for Model Flops Utilization calculations)."
_EXTERNAL = "from KV connector cross-instance cache sharing, in terms of number of"
_TIERS = (
    "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), disk, "
    "p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to "
    "vllm:prefix_cache_hits + vllm:external_prefix_cache_hits."
)
_REASONS = (
    "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = "
    "deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals "
    "vllm:num_requests_waiting."
)
_SLEEP = (
    "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 "
    "means sleep level 1; discard_all = 1 means sleep level 2."
)

SCALARS = (
    _counter("vllm:estimated_flops_per_gpu_total", f"Estimated number of floating point operations per GPU {_MFU}"),
    _counter("vllm:estimated_read_bytes_per_gpu_total", f"Estimated number of bytes read from memory per GPU {_MFU}"),
    _counter("vllm:estimated_write_bytes_per_gpu_total", f"Estimated number of bytes written to memory per GPU {_MFU}"),
    _gauge("vllm:num_requests_running", "Number of requests in model execution batches.", lambda s: s.running),
    _gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", lambda s: s.waiting),
    Scalar(
        "gauge",
        "vllm:num_requests_waiting_by_reason",
        _REASONS,
        (("capacity", lambda s: s.waiting - s.deferred), ("deferred", lambda s: s.deferred)),
        "reason",
    ),
    Scalar(
        "gauge",
        "vllm:engine_sleep_state",
        _SLEEP,
        (("awake", lambda _: 1.0), ("weights_offloaded", _zero), ("discard_all", _zero)),
        "sleep_state",
    ),
    _gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", lambda s: s.kv_usage),
    _counter(
        "vllm:prefix_cache_queries_total",
        "Prefix cache queries, in terms of number of queried tokens.",
        lambda s: s.prefix_queries,
    ),
    _counter(
        "vllm:prefix_cache_hits_total",
        "Prefix cache hits, in terms of number of cached tokens.",
        lambda s: s.prefix_hits,
    ),
    _counter("vllm:external_prefix_cache_queries_total", f"External prefix cache queries {_EXTERNAL} queried tokens."),
    _counter("vllm:external_prefix_cache_hits_total", f"External prefix cache hits {_EXTERNAL} cached tokens."),
    _counter("vllm:mm_cache_queries_total", "Multi-modal cache queries, in terms of number of queried items."),
    _counter("vllm:mm_cache_hits_total", "Multi-modal cache hits, in terms of number of cached items."),
    _counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", lambda s: s.preemptions),
    _counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", lambda s: s.prompt_tokens),
    Scalar(
        "counter",
        "vllm:prompt_tokens_by_source_total",
        "Number of prompt tokens by source.",
        (
            ("local_compute", lambda s: s.prompt_tokens - s.cached_tokens),
            ("local_cache_hit", lambda s: s.cached_tokens),
            ("external_kv_transfer", _zero),
        ),
        "source",
    ),
    _counter(
        "vllm:prompt_tokens_cached_total",
        "Number of cached prompt tokens (local + external).",
        lambda s: s.cached_tokens,
    ),
    Scalar(
        "counter",
        "vllm:prompt_tokens_cached_by_source_total",
        _TIERS,
        (
            ("device", lambda s: s.prefix_hits),
            ("host", _zero),
            ("p2p", _zero),
            ("disk", _zero),
            ("external_unspecified", _zero),
        ),
        "source",
    ),
    _counter("vllm:generation_tokens_total", "Number of generation tokens processed.", lambda s: s.generation_tokens),
    Scalar(
        "counter",
        "vllm:request_success_total",
        "Count of successfully processed requests.",
        (
            ("stop", lambda s: s.finished["stop"]),
            ("length", lambda s: s.finished["length"]),
            ("abort", lambda s: s.finished["abort"]),
            ("error", lambda s: s.finished["error"]),
            ("repetition", lambda s: s.finished["repetition"]),
        ),
        "finished_reason",
    ),
    Scalar(
        "counter",
        "vllm:admission_rejections_total",
        "Number of admission attempts rejected by a queue limit, by reason.",
        (("max_num_queued_reqs", _zero), ("max_num_queued_tokens", _zero)),
        "reason",
        has_engine=False,
    ),
)

DISTRIBUTIONS = (
    Distribution(
        "vllm:request_prompt_tokens", "Number of prefill tokens processed.", lambda s: s.request_prompt_tokens
    ),
    Distribution(
        "vllm:request_generation_tokens",
        "Number of generation tokens processed.",
        lambda s: s.request_generation_tokens,
    ),
    Distribution(
        "vllm:iteration_tokens_total",
        "Histogram of number of tokens per engine_step.",
        lambda s: s.iteration_tokens,
    ),
    Distribution(
        "vllm:request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        lambda s: s.request_max_num_generation_tokens,
    ),
    Distribution("vllm:request_params_n", "Histogram of the n request parameter.", lambda s: s.request_params_n),
    Distribution(
        "vllm:request_params_max_tokens",
        "Histogram of the max_tokens request parameter.",
        lambda s: s.request_params_max_tokens,
    ),
    Distribution(
        "vllm:time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        lambda s: s.time_to_first_token,
    ),
    Distribution(
        "vllm:inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        lambda s: s.inter_token_latency,
    ),
    Distribution(
        "vllm:request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        lambda s: s.time_per_output_token,
    ),
    Distribution(
        "vllm:e2e_request_latency_seconds",
        "Histogram of e2e request latency in seconds.",
        lambda s: s.e2e_latency,
    ),
    Distribution(
        "vllm:request_queue_time_seconds",
        "Histogram of time spent in WAITING phase for request.",
        lambda s: s.queue_time,
    ),
    Distribution(
        "vllm:request_inference_time_seconds",
        "Histogram of time spent in RUNNING phase for request.",
        lambda s: s.inference_time,
    ),
    Distribution(
        "vllm:request_prefill_time_seconds",
        "Histogram of time spent in PREFILL phase for request.",
        lambda s: s.prefill_time,
    ),
    Distribution(
        "vllm:request_decode_time_seconds",
        "Histogram of time spent in DECODE phase for request.",
        lambda s: s.decode_time,
    ),
    Distribution(
        "vllm:request_num_preemptions",
        "Histogram of the number of times a request was preempted.",
        lambda s: s.request_preemptions,
    ),
    Distribution(
        "vllm:request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        lambda s: s.prefill_computed_tokens,
    ),
)
