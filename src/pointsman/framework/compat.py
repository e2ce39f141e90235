"""What an llm-d user's file may name that Pointsman does by itself, does not do yet, or does under another name."""

from __future__ import annotations

_SCRAPING = "engine metrics are always scraped; the entry has no effect"
_MODELS = "/v1/models is always read; the entry has no effect"
_PARSING = "this request format is always understood; the entry has no effect"
_NO_QUEUE = "flow control is not in this version, requests are admitted at once; the entry has no effect"

BUILT_IN: dict[str, str] = {
    "metrics-data-source": _SCRAPING,
    "core-metrics-extractor": _SCRAPING,
    "models-data-source": _MODELS,
    "models-data-extractor": _MODELS,
    "endpoint-notification-source": "plugins always learn of endpoint changes; the entry has no effect",
    "openai-parser": _PARSING,
    "anthropic-parser": _PARSING,
    "vllmhttp-parser": _PARSING,
    "sglanghttp-parser": _PARSING,
    "vllmgrpc-parser": _PARSING,
    "passthrough-parser": _PARSING,
    "utilization-detector": _NO_QUEUE,
    "concurrency-detector": _NO_QUEUE,
    "global-strict-fairness-policy": _NO_QUEUE,
    "round-robin-fairness-policy": _NO_QUEUE,
    "fcfs-ordering-policy": _NO_QUEUE,
    "edf-ordering-policy": _NO_QUEUE,
    "slo-deadline-ordering-policy": _NO_QUEUE,
    "static-usage-limit-policy": _NO_QUEUE,
}
"""llm-d plugin types that are accepted and noted instead of built."""

NOT_YET: frozenset[str] = frozenset(
    {
        "always-disagg-multimodal-decider",
        "always-disagg-pd-decider",
        "burst-prefix-cache-producer",
        "by-label",
        "by-label-selector",
        "context-length-aware",
        "data-parallel-profile-handler",
        "decode-filter",
        "disagg-profile-handler",
        "encode-filter",
        "endpoint-attribute-filter",
        "endpoint-attribute-scorer",
        "file-discovery",
        "header-label-affinity-scorer",
        "header-profile-handler",
        "label-selector-filter",
        "latency-scorer",
        "latency-slo-admitter",
        "load-aware-scorer",
        "mm-embeddings-cache-producer",
        "mm-embeddings-cache-scorer",
        "p2p-source-producer",
        "pd-profile-handler",
        "precise-prefix-cache-scorer",
        "predicted-latency-producer",
        "prefill-filter",
        "prefix-based-pd-decider",
        "prefix-cache-affinity-filter",
        "probabilistic-admitter",
        "request-attribute-reporter",
        "session-affinity-filter",
        "session-affinity-scorer",
        "session-id-producer",
        "slo-headroom-tier-filter",
        "token-load-scorer",
        "topology-affinity-filter",
        "topology-affinity-scorer",
        "utilization-filter",
    }
)
"""llm-d plugin types that this version does not have; refused by name."""

FEATURE_GATES: dict[str, str | None] = {
    "flowControl": "flow control is not in this version, requests are admitted at once",
    "haPopulateNonLeaderDatastore": None,
}
"""llm-d's feature gates and what to say when one is switched on."""

SHORT_PICKERS: dict[str, str] = {
    "max-score": "max-score-picker",
    "random": "random-picker",
    "weighted-random": "weighted-random-picker",
    "round-robin": "round-robin-picker",
}
"""Names of pickers in the short form's ``selection.type``."""
