"""What an llm-d user's file may name that Pointsman does by itself, does not do yet, or does under another name."""

from __future__ import annotations

_SCRAPING = "engine metrics are always scraped; the entry has no effect"
_MODELS = "/v1/models is always read; the entry has no effect"
_STAGES = "the profile handler sets the headers of the stages itself; the entry has no effect"
_PARSING = "this request format is always understood; the entry has no effect"
_NO_QUEUE = "flow control is not in this version, requests are admitted at once; the entry has no effect"

BUILT_IN: dict[str, str] = {
    "metrics-data-source": _SCRAPING,
    "core-metrics-extractor": _SCRAPING,
    "models-data-source": _MODELS,
    "models-data-extractor": _MODELS,
    "endpoint-notification-source": "plugins always learn of endpoint changes; the entry has no effect",
    "disagg-headers-handler": _STAGES,
    "prefill-header-handler": _STAGES,
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
        "disaggregatedset-rollout-screener",
        "file-discovery",
        "mm-embeddings-cache-producer",
        "mm-embeddings-cache-scorer",
        "multicluster-kv-cache-utilization-scorer",
        "multicluster-prefix-cache-scorer",
        "multicluster-queue-scorer",
        "multicluster-session-affinity-filter",
        "request-attribute-reporter",
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
