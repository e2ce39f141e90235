from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoints, make_handle, make_plugin, make_request

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.keys import LatencyPrediction, PrefixMatch, latency_prediction_key, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.plugins.filters.prefix_cache_affinity import PrefixCacheAffinity
from pointsman.plugins.producers.inflight_load import InflightLoadProducer

REQUEST, ENDPOINTS = make_request(), make_endpoints(4)
MATCH = PrefixMatch(block_tokens=64, total_blocks=10, blocks=(8, 7, 10, 0))  # sticky from 0.8: slots 0 and 2


def kept(tokens: list[int], match: PrefixMatch = MATCH, seed: int = 0, **parameters: Any) -> list[int]:
    handle = make_handle({slot: InflightLoad(tokens=count) for slot, count in enumerate(tokens)}, seed=seed)
    state = CycleState()
    state.write(prefix_match_key("approx-prefix-cache-producer"), match)
    make_plugin(InflightLoadProducer, handle).produce(REQUEST, ENDPOINTS, state)
    result = make_plugin(PrefixCacheAffinity, handle, **parameters).filter(REQUEST, ENDPOINTS, state)
    return [endpoint.slot for endpoint in result]


@pytest.mark.parametrize(
    ("tokens", "parameters", "slots"),
    [
        ([0, 0, 0, 0], {}, [0, 2]),
        ([0, 0, 0, 0], {"affinityThreshold": 0.7}, [0, 1, 2]),
        ([0, 0, 0, 0], {"affinityThreshold": 0}, [0, 1, 2, 3]),
        # 18 s at 15,928 tokens/s are 286,704 tokens: no more than that keeps sticking.
        ([286_704, 0, 286_704, 0], {}, [0, 2]),
        ([286_705, 0, 286_720, 0], {}, [0, 1, 2, 3]),
        ([286_720, 0, 100, 0], {}, [0, 2]),
        ([386_720, 200_000, 386_720, 200_000], {}, [0, 2]),
        ([9_000_000, 0, 9_000_000, 0], {"maxTTFTPenaltyMs": 0}, [0, 2]),
        ([1001, 0, 1001, 0], {"peakPrefillThroughput": 1000, "maxTTFTPenaltyMs": 1000}, [0, 1, 2, 3]),
        ([0, 0, 0, 0], {"explorationProbability": 1}, [0, 1, 2, 3]),
    ],
)
def test_table(tokens: list[int], parameters: dict[str, Any], slots: list[int]) -> None:
    assert kept(tokens, **parameters) == slots


@pytest.mark.parametrize(
    "match",
    [
        PrefixMatch(block_tokens=64, total_blocks=10, blocks=(7, 7)),
        PrefixMatch(block_tokens=64, total_blocks=0),
        PrefixMatch(block_tokens=64, total_blocks=10, blocks=(9, 9, 9, 9)),
    ],
)
def test_nobody_or_everybody_sticky(match: PrefixMatch) -> None:
    assert kept([0, 0, 0, 0], match) == [0, 1, 2, 3]


def test_slower_tiers_count_by_their_worth() -> None:
    worth = (sum([0.8] * 10), 7.9, 0.0, 0.0)  # ten blocks of 0.8 add up to a hair less than 8
    assert kept([0] * 4, PrefixMatch(block_tokens=64, total_blocks=10, blocks=(10, 10), worth=worth)) == [0]


def test_explores_in_its_share() -> None:
    runs = [len(kept([0, 0, 0, 0], seed=seed, explorationProbability=0.25)) for seed in range(400)]
    assert 60 < runs.count(4) < 140


@pytest.mark.parametrize(
    ("ttft", "slots"),
    [
        ({0: 900, 1: 100, 2: 1200, 3: 500}, [0, 2]),
        ({0: 1300, 1: 100, 2: 1200, 3: 500}, [0, 1, 2, 3]),
        ({0: 900, 2: 900}, [0, 1, 2, 3]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_latency_predictor(ttft: dict[int, float], slots: list[int]) -> None:
    state = CycleState()
    state.write(prefix_match_key("approx-prefix-cache-producer"), MATCH)
    state.write(latency_prediction_key(), {slot: LatencyPrediction(ms, 10, 0, 0) for slot, ms in ttft.items()})
    plugin = make_plugin(PrefixCacheAffinity, ttftSource="latencyPredictor", maxTTFTPenaltyMs=1000)
    assert [endpoint.slot for endpoint in plugin.filter(REQUEST, ENDPOINTS, state)] == slots
    assert [spec.type for spec in plugin.requires()] == ["approx-prefix-cache-producer", "predicted-latency-producer"]


def test_brings_what_it_reads() -> None:
    types = [spec.type for spec in make_plugin(PrefixCacheAffinity).requires()]
    assert types == ["approx-prefix-cache-producer", "inflight-load-producer"]
    always = make_plugin(PrefixCacheAffinity, maxTTFTPenaltyMs=0)
    assert [spec.type for spec in always.requires()] == types[:1]
    assert len(always.consumes()) == 1


@pytest.mark.parametrize(
    "parameters",
    [{"affinityThreshold": 1.1}, {"ttftSource": "oracle"}, {"peakPrefillThroughput": 0}, {"maxTTFTPenaltyMs": -1}],
)
def test_refuses(parameters: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(parameters))):
        make_plugin(PrefixCacheAffinity, **parameters)
