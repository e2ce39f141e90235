"""What ships: type strings are what users write in files, so a change here is a change for them."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.framework.plugin import Params
from pointsman.framework.registry import installed_plugins

FILTERS = ["header-based-testing-filter", "memory-pressure", "model-compatibility", "queue-depth"]
SCORERS = [
    "active-request-scorer",
    "kv-cache-utilization-scorer",
    "load-aware",
    "lora-affinity-scorer",
    "lora-aware",
    "no-hit-lru-scorer",
    "predicted-latency",
    "prefix-aware",
    "prefix-cache-scorer",
    "queue-scorer",
    "running-requests-size-scorer",
]
COSTS = ["decode-interference-cost", "kv-pressure-cost", "reserved-work-cost", "uncached-prefill-cost"]
PICKERS = ["max-score-picker", "random-picker", "round-robin-picker", "top-k", "weighted-random-picker"]
PRODUCERS = [
    "approx-prefix-cache-producer",
    "inflight-load-producer",
    "precise-prefix-cache-producer",
    "token-producer",
    "tokenizer",
]
HANDLERS = ["single-profile-handler"]
ANSWER_HEADERS = ["destination-endpoint-served-verifier"]
GOLDEN = sorted(FILTERS + SCORERS + COSTS + PICKERS + PRODUCERS + HANDLERS + ANSWER_HEADERS)

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
