"""What ships: type strings are what users write in files, so a change here is a change for them."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.framework.plugin import Params
from pointsman.framework.registry import installed_plugins

FILTERS = [
    "by-label",
    "by-label-selector",
    "decode-filter",
    "encode-filter",
    "endpoint-attribute-filter",
    "header-based-testing-filter",
    "label-selector-filter",
    "memory-pressure",
    "model-compatibility",
    "prefill-filter",
    "prefix-cache-affinity-filter",
    "queue-depth",
    "session-affinity-filter",
    "slo-headroom-tier-filter",
    "topology-affinity-filter",
    "utilization-filter",
]
SCORERS = [
    "active-request-scorer",
    "context-length-aware",
    "endpoint-attribute-scorer",
    "header-label-affinity-scorer",
    "kv-cache-utilization-scorer",
    "latency-scorer",
    "load-aware",
    "load-aware-scorer",
    "lora-affinity-scorer",
    "lora-aware",
    "no-hit-lru-scorer",
    "precise-prefix-cache-scorer",
    "predicted-latency",
    "prefix-aware",
    "prefix-cache-scorer",
    "queue-scorer",
    "running-requests-size-scorer",
    "session-affinity-scorer",
    "token-load-scorer",
    "topology-affinity-scorer",
]
COSTS = [
    "adapter-load-cost",
    "decode-interference-cost",
    "kv-pressure-cost",
    "reserved-work-cost",
    "tier-copy-cost",
    "uncached-prefill-cost",
]
PICKERS = ["max-score-picker", "random-picker", "round-robin-picker", "top-k", "weighted-random-picker"]
PRODUCERS = [
    "agent-identity",
    "approx-prefix-cache-producer",
    "burst-prefix-cache-producer",
    "inflight-load-producer",
    "p2p-source-producer",
    "precise-prefix-cache-producer",
    "predicted-latency-producer",
    "remote-prefix-cache-producer",
    "session-id-producer",
    "token-producer",
    "tokenizer",
    "topology-extractor",
]
HANDLERS = [
    "data-parallel-profile-handler",
    "disagg-profile-handler",
    "header-profile-handler",
    "pd-profile-handler",
    "single-profile-handler",
]
DECIDERS = ["always-disagg-multimodal-decider", "always-disagg-pd-decider", "prefix-based-pd-decider"]
ADMITTERS = ["latency-slo-admitter", "probabilistic-admitter"]
ANSWER_HEADERS = ["destination-endpoint-served-verifier"]
GOLDEN = sorted(FILTERS + SCORERS + COSTS + PICKERS + PRODUCERS + HANDLERS + DECIDERS + ADMITTERS + ANSWER_HEADERS)

REGISTRY = installed_plugins()


def test_type_strings() -> None:
    assert [name for name in REGISTRY if REGISTRY.origin(name).startswith("pointsman.plugins.")] == GOLDEN


@pytest.mark.parametrize("name", GOLDEN)
def test_documents_itself(name: str) -> None:
    cls = REGISTRY.get(name)
    assert cls.__doc__
    assert cls.formula
    assert cls.inputs
    assert cls.Params is not Params, "each plugin has its own parameters"
    properties = msgspec.json.schema(cls.Params)["$defs"][cls.Params.__name__]["properties"]
    for field, schema in properties.items():
        assert schema.get("description"), f"{name}: {field} has no description"
        assert "default" in schema, f"{name}: {field} has no default"
