"""The filter and the scorer by any number of an endpoint."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_handle, make_plugin, make_request, make_state

from pointsman.api.endpoint import Growth, InflightLoad
from pointsman.errors import ConfigError
from pointsman.plugins._attributes import attribute_reader
from pointsman.plugins.filters.endpoint_attribute import EndpointAttributeFilter
from pointsman.plugins.scorers.endpoint_attribute import EndpointAttributeScorer

VALUES = ["10", "20", None, "30", "20"]
ENDPOINTS = [make_endpoint(slot, labels={"n": text} if text else {}) for slot, text in enumerate(VALUES)]


def threshold(operator: str, value: float) -> dict[str, Any]:
    return {"type": "threshold", "threshold": {"operator": operator, "value": value}}


def top(k: int, *, higher: bool = True) -> dict[str, Any]:
    return {"type": "topK", "topK": {"k": k, "higherIsBetter": higher}}


def percentile(value: float, *, higher: bool = True) -> dict[str, Any]:
    return {"type": "percentile", "percentile": {"percentile": value, "higherIsBetter": higher}}


@pytest.mark.parametrize(
    ("algorithm", "kept"),
    [
        (threshold("LessThan", 20), [0]),
        (threshold("LessThanOrEqual", 20), [0, 1, 4]),
        (threshold("GreaterThan", 20), [3]),
        (threshold("GreaterThanOrEqual", 20), [1, 3, 4]),
        (threshold("Equal", 20), [1, 4]),
        (threshold("NotEqual", 20), [0, 3]),
        ({"type": "range", "range": {"min": 10, "max": 20}}, [0, 1, 4]),
        (top(1), [3]),
        (top(2), [1, 3, 4]),  # two are equal for the second place
        (top(1, higher=False), [0]),
        (top(9), [0, 1, 3, 4]),
        # Ascending 10 20 20 30: the 25th percentile is the 1st, the 75th the 3rd.
        (percentile(25, higher=False), [0]),
        (percentile(75), [1, 3, 4]),
        (percentile(100), [3]),
        (percentile(0), [0, 1, 3, 4]),
    ],
)
def test_filter(algorithm: dict[str, Any], kept: list[int]) -> None:
    strict = make_plugin(EndpointAttributeFilter, attribute="n", algorithm=algorithm, onMissing="Fail")
    assert [e.slot for e in strict.filter(make_request(), ENDPOINTS, make_state())] == kept
    lenient = make_plugin(EndpointAttributeFilter, attribute="n", algorithm=algorithm)
    assert [e.slot for e in lenient.filter(make_request(), ENDPOINTS, make_state())] == sorted([*kept, 2])
    assert lenient.stats() == {"missing": 1}


def test_fallback_on_empty() -> None:
    parameters: dict[str, Any] = {"attribute": "n", "algorithm": threshold("LessThan", 0), "onMissing": "Fail"}
    assert not make_plugin(EndpointAttributeFilter, **parameters).filter(make_request(), ENDPOINTS, make_state())
    plugin = make_plugin(EndpointAttributeFilter, **parameters, fallbackOnEmpty=True)
    assert plugin.filter(make_request(), ENDPOINTS, make_state()) == ENDPOINTS


def test_an_attribute_that_nobody_has() -> None:
    plugin = make_plugin(EndpointAttributeFilter, attribute="typo", algorithm=top(1))
    assert plugin.filter(make_request(), ENDPOINTS, make_state()) == ENDPOINTS
    assert plugin.stats() == {"missing": 5}
    scorer = make_plugin(EndpointAttributeScorer, attribute="typo", algorithm={"type": "linear_lower_is_better"})
    assert scorer.score(make_request(), ENDPOINTS, make_state()) == [0.0] * 5
    assert scorer.stats() == {"missing": 5}


@pytest.mark.parametrize(
    ("kind", "normalization", "scores"),
    [
        ("linear_higher_is_better", {}, [0.0, 0.5, 0.0, 1.0, 0.5]),
        ("linear_lower_is_better", {"adaptiveRange": {}}, [1.0, 0.5, 0.0, 0.0, 0.5]),
        ("linear_higher_is_better", {"fixedRange": {"min": 0, "max": 25}}, [0.4, 0.8, 0.0, 1.0, 0.8]),
        ("linear_lower_is_better", {"fixedRange": {"min": 20, "max": 40}}, [1.0, 1.0, 0.0, 0.5, 1.0]),
    ],
)
def test_scorer(kind: str, normalization: dict[str, Any], scores: list[float]) -> None:
    algorithm = {"type": kind, "normalization": normalization}
    plugin = make_plugin(EndpointAttributeScorer, attribute="n", algorithm=algorithm)
    assert plugin.score(make_request(), ENDPOINTS, make_state()) == pytest.approx(scores)


def test_all_equal_score_one() -> None:
    plugin = make_plugin(EndpointAttributeScorer, attribute="n", algorithm={"type": "linear_lower_is_better"})
    endpoints = [ENDPOINTS[1], ENDPOINTS[2], ENDPOINTS[4]]
    assert plugin.score(make_request(), endpoints, make_state()) == [1.0, 0.0, 1.0]
    assert plugin.score(make_request(), [], make_state()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_requests_waiting", 7),
        ("vllm:num_requests_waiting", 7),
        ("num_requests_running", 3),
        ("kv_cache_usage_perc", 0.5),
        ("num_gpu_blocks", 1000),
        ("block_size", None),
        ("max_num_seqs", None),
        ("active_requests", 4),
        ("inflight_tokens", 900),
        ("weight", 1.5),
        ("word", None),
        ("huge", None),
        ("none", None),
    ],
)
def test_names(name: str, value: float | None) -> None:
    labels = {"weight": "1.5", "word": "fast", "huge": "inf"}
    endpoint = make_endpoint(0, labels=labels, waiting=5, running=3, kv_usage=0.5, num_blocks=1000)
    handle = make_handle({0: InflightLoad(requests=4, tokens=900)}, growths={0: Growth(pending=2)})
    if name == "kv_cache_usage_perc":
        handle = make_handle()
    assert attribute_reader(name, "", handle)(endpoint) == value


@pytest.mark.parametrize(
    ("name", "producer", "message"), [("", "", "attribute must be given"), ("n", "dcgm-extractor", "'dcgm-extractor'")]
)
def test_reader_refuses(name: str, producer: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attribute_reader(name, producer, make_handle())


@pytest.mark.parametrize(
    ("cls", "algorithm", "message"),
    [
        (EndpointAttributeFilter, None, "algorithm must be given"),
        (EndpointAttributeFilter, {"type": "topK"}, "algorithm.topK must be given"),
        (EndpointAttributeFilter, {"type": "range", "range": {"min": 2, "max": 1}}, "min is above max"),
        (EndpointAttributeFilter, threshold("Near", 1), "operator"),
        (EndpointAttributeScorer, None, "algorithm must be given"),
        (EndpointAttributeScorer, {"type": "square"}, "type"),
        (
            EndpointAttributeScorer,
            {"type": "linear_lower_is_better", "normalization": {"fixedRange": {"min": 1, "max": 1}}},
            "min must be below max",
        ),
        (
            EndpointAttributeScorer,
            {
                "type": "linear_lower_is_better",
                "normalization": {"fixedRange": {"min": 0, "max": 1}, "adaptiveRange": {}},
            },
            "exclude each other",
        ),
    ],
)
def test_refuses(cls: type[Any], algorithm: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        make_plugin(cls, attribute="n", algorithm=algorithm)
