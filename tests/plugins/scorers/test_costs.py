"""The cost scorers, in milliseconds, against hand-computed values."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import make_endpoint, make_endpoints, make_handle, make_plugin, make_request, make_state

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.keys import PrefixMatch
from pointsman.framework.plugin import CostScorer
from pointsman.plugins.scorers.decode_interference_cost import DecodeInterferenceCost
from pointsman.plugins.scorers.kv_pressure_cost import KvPressureCost
from pointsman.plugins.scorers.reserved_work_cost import ReservedWorkCost
from pointsman.plugins.scorers.uncached_prefill_cost import UncachedPrefillCost

NOW = 100.0  # of make_handle's clock
MATCH = make_state(PrefixMatch(block_tokens=64, total_blocks=15, blocks=(0, 10, 15)))
REQUEST = make_request(prompt_tokens=1000)


def test_reserved_work() -> None:
    handle = make_handle({1: InflightLoad(prefill_ms=123.5)})
    assert make_plugin(ReservedWorkCost, handle).cost(REQUEST, make_endpoints(2), make_state()) == [0.0, 123.5]


class TestUncachedPrefill:
    def test_values(self) -> None:
        costs = make_plugin(UncachedPrefillCost).cost(REQUEST, make_endpoints(4), MATCH)
        # 8 + .0475 n + 8.7e-7 n^2 + 1.74e-6 n cached, with 0, 640, 960 and 0 tokens cached.
        assert costs == pytest.approx([56.37, 25.613648, 10.0 - 0.1 + 0.068208, 56.37], abs=1e-6)

    def test_never_less_than_nothing(self) -> None:
        # Blocks of an estimate may come to more tokens than the prompt has.
        state = make_state(PrefixMatch(block_tokens=64, total_blocks=2, blocks=(2,)))
        assert make_plugin(UncachedPrefillCost).cost(make_request(prompt_tokens=100), make_endpoints(1), state) == [8.0]

    def test_empty_prompt_and_failed_producer(self) -> None:
        plugin = make_plugin(UncachedPrefillCost)
        assert plugin.cost(make_request(), make_endpoints(2), make_state()) == [8.0, 8.0]
        assert plugin.cost(REQUEST, make_endpoints(1), make_state()) == pytest.approx([56.37])


class TestDecodeInterference:
    def test_idle_costs_nothing(self) -> None:
        assert make_plugin(DecodeInterferenceCost).cost(REQUEST, make_endpoints(1), make_state()) == [0.0]

    def test_prefilling_only_is_charged_the_slowdown(self) -> None:
        handle = make_handle({0: InflightLoad(requests=4, context_tokens=4000)})
        # 0.01 * 4 * 256 * (0.0268 + 4.22e-5 * 1000)
        expected = 0.01 * 4 * 256 * 0.069
        assert make_plugin(DecodeInterferenceCost, handle).cost(
            REQUEST, make_endpoints(1), make_state()
        ) == pytest.approx([expected])

    def test_decoding_adds_half_a_step(self) -> None:
        handle = make_handle({0: InflightLoad(requests=4, decoding=2, context_tokens=4000)})
        # Mean context 1000 + 128: step = 13.6 + 2 * 0.0268 + 4.22e-5 * 2256
        step = 13.6 + 0.0536 + 0.0952032
        expected = 0.5 * step + 0.01 * 4 * 256 * 0.069
        assert make_plugin(DecodeInterferenceCost, handle).cost(
            REQUEST, make_endpoints(1), make_state()
        ) == pytest.approx([expected])

    def test_parameters(self) -> None:
        handle = make_handle({0: InflightLoad(requests=4, context_tokens=4000)})
        plugin = make_plugin(DecodeInterferenceCost, handle, interferenceWeight=0, expectedOutputTokens=10)
        assert plugin.cost(REQUEST, make_endpoints(1), make_state()) == [0.0]


class TestKvPressure:
    def test_fresh_reading(self) -> None:
        endpoint = make_endpoint(kv_usage=0.5, num_blocks=1000, block_size=16, updated=NOW - 1)
        # Capacity 16,000; 1,000 uncached + 128 of output: k 0.5 -> 0.5705.
        expected = 1000 * (1 / (1 - 0.5705) - 2.0)
        assert make_plugin(KvPressureCost).cost(REQUEST, [endpoint], make_state()) == pytest.approx([expected])

    @pytest.mark.parametrize("age", [2.0, 60.0])
    def test_old_reading_gives_way_to_the_ledger(self, age: float) -> None:
        handle = make_handle({0: InflightLoad(requests=10, context_tokens=10_000)})
        endpoint = make_endpoint(kv_usage=0.9, updated=NOW - age)
        # (10,000 + 10 * 128) / 300,000 -> + 1,128 / 300,000
        before, after = 11_280 / 300_000, 12_408 / 300_000
        expected = 1000 * (1 / (1 - after) - 1 / (1 - before))
        assert make_plugin(KvPressureCost, handle).cost(REQUEST, [endpoint], make_state()) == pytest.approx([expected])

    def test_estimate_is_at_most_full(self) -> None:
        handle = make_handle({0: InflightLoad(requests=1, context_tokens=10**9)})
        # From 1 on the tangent: 400 per unit.
        expected = 1000 * 400 * 1128 / 300_000
        assert make_plugin(KvPressureCost, handle).cost(REQUEST, make_endpoints(1), make_state()) == pytest.approx(
            [expected]
        )

    def test_hit_is_cheap_and_miss_dear_on_a_full_endpoint(self) -> None:
        endpoints = [
            make_endpoint(slot, kv_usage=usage, num_blocks=1000, block_size=16, updated=NOW)
            for slot, usage in ((0, 0.9), (2, 0.9), (3, 0.1))
        ]
        miss_full, hit_full, miss_empty = make_plugin(KvPressureCost).cost(REQUEST, endpoints, MATCH)
        assert hit_full < 0.2 * miss_full
        assert miss_empty < hit_full

    def test_continuous_at_the_knee_and_rising(self) -> None:
        usages = [0.0, 0.5, 0.9, 0.94, 0.9499, 0.95, 0.96, 1.0]
        endpoints = [make_endpoint(kv_usage=usage, updated=NOW) for usage in usages]
        costs = list(make_plugin(KvPressureCost).cost(REQUEST, endpoints, make_state()))
        assert costs == sorted(costs)
        assert costs[-1] == pytest.approx(costs[-3]), "a straight line past the knee"

    def test_empty_request(self) -> None:
        plugin = make_plugin(KvPressureCost, expectedOutputTokens=0)
        assert plugin.cost(make_request(), make_endpoints(2), make_state()) == [0.0, 0.0]


@pytest.mark.parametrize("cls", [UncachedPrefillCost, KvPressureCost])
def test_producer(cls: type[CostScorer[Any]]) -> None:
    (spec,) = make_plugin(cls).requires()
    assert spec.type == "approx-prefix-cache-producer"
    other = make_plugin(cls, prefixMatchInfoProducerName="precise")
    assert other.requires() == ()
    assert [key.name for key in other.consumes()] == ["prefix-match/precise"]
