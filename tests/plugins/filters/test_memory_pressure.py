from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.plugins.filters.memory_pressure import MemoryPressure, duration_seconds

NOW = 100.0  # of make_handle's clock


@pytest.mark.parametrize(
    ("usage", "updated", "kept"),
    [(0.0, NOW, True), (0.9499, NOW, True), (0.95, NOW, False), (1.0, NOW - 5, False), (1.0, NOW - 5.1, True)],
)
def test_filter(usage: float, updated: float, kept: bool) -> None:
    endpoints = [make_endpoint(kv_usage=usage, updated=updated)]
    result = make_plugin(MemoryPressure).filter(make_request(), endpoints, make_state())
    assert bool(result) is kept


def test_never_scraped_is_kept_and_counts_as_empty() -> None:
    plugin, endpoints = make_plugin(MemoryPressure), [make_endpoint()]
    assert list(plugin.filter(make_request(), endpoints, make_state())) == endpoints
    assert plugin.score(make_request(), endpoints, make_state()) == [1.0]


@pytest.mark.parametrize(
    ("parameters", "usage", "score"),
    [
        ({}, 0.5, 1.0),
        ({}, 0.85, 1.0),
        ({}, 0.90, 0.5),
        ({}, 0.93, 0.2),
        ({}, 0.95, 0.0),
        ({}, 1.0, 0.0),
        ({"penaltyThreshold": 0.5, "maxKVUtilization": 0.9}, 0.6, 0.75),
        ({"penaltyThreshold": 0.9, "maxKVUtilization": 0.9}, 0.9, 1.0),
        ({"penaltyThreshold": 0.9, "maxKVUtilization": 0.9}, 0.91, 0.0),
    ],
)
def test_score(parameters: dict[str, Any], usage: float, score: float) -> None:
    plugin = make_plugin(MemoryPressure, **parameters)
    assert plugin.score(make_request(), [make_endpoint(kv_usage=usage)], make_state()) == pytest.approx([score])


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)
    make_plugin(MemoryPressure, checkInterval=text)


@pytest.mark.parametrize(
    "parameters",
    [
        {"maxKVUtilization": 1.5},
        {"checkInterval": "5"},
        {"checkInterval": "5s later"},
        {"penaltyThreshold": 0.96},
        {"maxKvUtilization": 0.9},
    ],
)
def test_refuses(parameters: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_plugin(MemoryPressure, **parameters)
