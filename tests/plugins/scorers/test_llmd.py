"""llm-d's scorers, by its formulas."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    make_endpoint,
    make_endpoints,
    make_handle,
    make_plugin,
    make_request,
    make_result,
    make_state,
)

from pointsman.api.endpoint import InflightLoad, LoraState
from pointsman.framework.keys import PrefixMatch
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.inflight_load import InflightLoadProducer
from pointsman.plugins.scorers.active_request import ActiveRequest
from pointsman.plugins.scorers.kv_cache_utilization import KvCacheUtilization
from pointsman.plugins.scorers.lora_affinity import LoraAffinity
from pointsman.plugins.scorers.no_hit_lru import NoHitLru
from pointsman.plugins.scorers.prefix_cache import PrefixCache
from pointsman.plugins.scorers.queue import Queue
from pointsman.plugins.scorers.running_requests import RunningRequests

REQUEST = make_request()


@pytest.mark.parametrize(
    ("values", "scores"),
    [([0, 5, 10], [1.0, 0.5, 0.0]), ([7, 7], [1.0, 1.0]), ([3], [1.0]), ([], []), ([2, 1, 1], [0.0, 1.0, 1.0])],
)
def test_queue_and_running_requests(values: list[int], scores: list[float]) -> None:
    waiting = [make_endpoint(slot, waiting=value) for slot, value in enumerate(values)]
    running = [make_endpoint(slot, running=value) for slot, value in enumerate(values)]
    assert make_plugin(Queue).score(REQUEST, waiting, make_state()) == scores
    assert make_plugin(RunningRequests).score(REQUEST, running, make_state()) == scores


def test_kv_cache_utilization() -> None:
    endpoints = [make_endpoint(0), make_endpoint(1, kv_usage=0.25), make_endpoint(2, kv_usage=1.0)]
    assert make_plugin(KvCacheUtilization).score(REQUEST, endpoints, make_state()) == [1.0, 0.75, 0.0]


class TestPrefixCache:
    STATE = make_state(PrefixMatch(block_tokens=64, total_blocks=100, blocks=(0, 64, 100)))

    def test_share_by_default(self) -> None:
        scores = make_plugin(PrefixCache).score(REQUEST, make_endpoints(4), self.STATE)
        assert scores == [0.0, 0.64, 1.0, 0.0]

    def test_length_weighted(self) -> None:
        plugin = make_plugin(PrefixCache, matchLengthWeight=0.5)
        # 64 blocks are 4,096 tokens, half the scale, squared a quarter; 100 are 6,400.
        expected = [0.0, 0.5 * 0.25 + 0.5 * 0.64, 0.5 * (6400 / 8192) ** 2 + 0.5]
        assert plugin.score(REQUEST, make_endpoints(3), self.STATE) == pytest.approx(expected)
        capped = make_plugin(PrefixCache, matchLengthWeight=1, matchLengthScaleTokens=1000)
        assert capped.score(REQUEST, make_endpoints(3), self.STATE) == [0.0, 1.0, 1.0]

    def test_producer(self) -> None:
        (spec,) = make_plugin(PrefixCache).requires()
        assert (spec.type, spec.name) == ("approx-prefix-cache-producer", "approx-prefix-cache-producer")
        other = make_plugin(PrefixCache, prefixMatchInfoProducerName="precise")
        assert other.requires() == ()
        assert [key.name for key in other.consumes()] == ["prefix-match/precise"]


@pytest.mark.parametrize(
    ("lora", "score"),
    [
        (LoraState(capacity=1, running=frozenset({"sql"})), 1.0),
        (LoraState(capacity=2, running=frozenset({"law"})), 0.8),
        (LoraState(capacity=2, running=frozenset({"law"}), waiting=frozenset({"sql"})), 0.6),
        (LoraState(capacity=3, running=frozenset({"law"}), waiting=frozenset({"sql"})), 0.8),
        (LoraState(capacity=1, running=frozenset({"law"})), 0.0),
        (LoraState(), 0.0),
    ],
)
def test_lora_affinity(lora: LoraState, score: float) -> None:
    scores = make_plugin(LoraAffinity).score(make_request(model="sql"), [make_endpoint(lora=lora)], make_state())
    assert scores == [score]


class TestActiveRequest:
    @pytest.mark.parametrize(
        ("parameters", "requests", "scores"),
        [
            ({}, [0, 5, 10], [1.0, 0.5, 0.0]),
            ({"idleThreshold": 5}, [0, 5, 10], [1.0, 1.0, 0.0]),
            ({"maxBusyScore": 0.4}, [0, 5, 10], [1.0, 0.2, 0.0]),
            ({}, [0, 0], [1.0, 1.0]),
            ({}, [3, 3], [0.0, 0.0]),
            ({}, [], []),
        ],
    )
    def test_table(self, parameters: dict[str, Any], requests: list[int], scores: list[float]) -> None:
        handle = make_handle({slot: InflightLoad(requests=count) for slot, count in enumerate(requests)})
        endpoints, state = make_endpoints(len(requests)), CycleState()
        make_plugin(InflightLoadProducer, handle).produce(REQUEST, endpoints, state)
        assert make_plugin(ActiveRequest, handle, **parameters).score(REQUEST, endpoints, state) == scores

    def test_reads_what_its_producer_writes(self) -> None:
        plugin = make_plugin(ActiveRequest)
        (spec,) = plugin.requires()
        assert spec.type == InflightLoadProducer.type
        assert plugin.consumes() == make_plugin(InflightLoadProducer, name=spec.name).produces()


class TestNoHitLru:
    COLD = make_state(PrefixMatch(block_tokens=64, total_blocks=10, blocks=()))
    ENDPOINTS = make_endpoints(3)

    def scores(self, plugin: NoHitLru) -> list[float]:
        return list(plugin.score(REQUEST, self.ENDPOINTS, self.COLD))

    def test_a_hit_anywhere_is_neutral(self) -> None:
        hit = make_state(PrefixMatch(block_tokens=64, total_blocks=10, blocks=(0, 1)))
        plugin = make_plugin(NoHitLru)
        assert plugin.score(REQUEST, self.ENDPOINTS, hit) == [0.5, 0.5, 0.5]
        plugin.picked(REQUEST, make_result(self.ENDPOINTS[0], self.ENDPOINTS), hit)
        assert self.scores(plugin) == [1.0, 0.5, 0.0], "a warm pick leaves no trace"

    def test_a_hit_on_an_endpoint_filtered_out_does_not_count(self) -> None:
        state = make_state(PrefixMatch(block_tokens=64, total_blocks=10, blocks=(0, 0, 0, 7)))
        assert make_plugin(NoHitLru).score(REQUEST, self.ENDPOINTS, state) == [1.0, 0.5, 0.0]

    def test_longest_ago_first_and_never_used_before_them(self) -> None:
        plugin = make_plugin(NoHitLru)
        assert self.scores(plugin) == [1.0, 0.5, 0.0]
        for slot, expected in [(0, [0.0, 1.0, 0.5]), (1, [0.5, 0.0, 1.0]), (2, [1.0, 0.5, 0.0]), (0, [0.0, 1.0, 0.5])]:
            plugin.picked(REQUEST, make_result(self.ENDPOINTS[slot], self.ENDPOINTS), self.COLD)
            assert self.scores(plugin) == expected

    def test_one_candidate(self) -> None:
        assert make_plugin(NoHitLru).score(REQUEST, self.ENDPOINTS[:1], self.COLD) == [1.0]

    def test_forgets(self) -> None:
        plugin = make_plugin(NoHitLru, lruSize=1)
        for slot in (0, 1):
            plugin.picked(REQUEST, make_result(self.ENDPOINTS[slot]), self.COLD)
        assert self.scores(plugin) == [1.0, 0.0, 0.5], "0 fell out of a memory of one"
        plugin.endpoint_removed(self.ENDPOINTS[1])
        assert self.scores(plugin) == [1.0, 0.5, 0.0]
