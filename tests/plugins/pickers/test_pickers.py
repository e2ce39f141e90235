from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from tests.builders import make_candidates, make_endpoints, make_handle, make_plugin, make_request, make_state

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.plugin import Picker
from pointsman.plugins.pickers.max_score import MaxScore
from pointsman.plugins.pickers.random import Random
from pointsman.plugins.pickers.round_robin import RoundRobin
from pointsman.plugins.pickers.top_k import TopK
from pointsman.plugins.pickers.weighted_random import WeightedRandom

ALL: list[type[Picker[Any]]] = [TopK, MaxScore, Random, WeightedRandom, RoundRobin]


def order(picker: Picker[Any], *scores: float) -> list[int]:
    chosen = picker.pick(make_request(), make_candidates(*scores), make_state())
    return [candidate.endpoint.slot for candidate in chosen]


def shares(picker: Picker[Any], *scores: float, draws: int = 2000) -> list[float]:
    counts = Counter(order(picker, *scores)[0] for _ in range(draws))
    return [counts[slot] / draws for slot in range(len(scores))]


@pytest.mark.parametrize("cls", ALL)
class TestEveryPicker:
    def test_returns_all_with_fallbacks_by_score(self, cls: type[Picker[Any]]) -> None:
        for _ in range(20):
            first, *rest = order(make_plugin(cls), 3.0, 9.0, 1.0, 5.0)
            assert rest == [slot for slot in (1, 3, 0, 2) if slot != first]

    @pytest.mark.parametrize("scores", [(0.0,), (0.0, 0.0), (-3.0, -1.0), (-1.0, 0.0, 2.0), (1e-300, 1e-300)])
    def test_any_scores(self, cls: type[Picker[Any]], scores: tuple[float, ...]) -> None:
        assert sorted(order(make_plugin(cls), *scores)) == list(range(len(scores)))

    def test_nobody(self, cls: type[Picker[Any]]) -> None:
        assert order(make_plugin(cls)) == []

    def test_same_seed_same_picks(self, cls: type[Picker[Any]]) -> None:
        one, two = make_plugin(cls, make_handle(seed=7)), make_plugin(cls, make_handle(seed=7))
        assert [order(one, 1.0, 1.0, 1.0) for _ in range(20)] == [order(two, 1.0, 1.0, 1.0) for _ in range(20)]


@pytest.mark.parametrize("cls", [MaxScore, Random, WeightedRandom, RoundRobin])
def test_llmds_parameter_is_accepted(cls: type[Picker[Any]]) -> None:
    assert len(order(make_plugin(cls, maxNumOfEndpoints=2), 1.0, 2.0, 3.0)) == 3


class TestTopK:
    def test_uniform_among_the_best_three(self) -> None:
        assert shares(make_plugin(TopK), 135.0, 40.0, 1.0, 90.0) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.04)

    @pytest.mark.parametrize("mode", ["uniform", "weighted"])
    def test_top_1_is_the_best(self, mode: str) -> None:
        assert shares(make_plugin(TopK, topK=1, mode=mode), 1.0, 2.0, 0.0, draws=50) == [0, 1, 0]

    def test_more_than_there_are(self) -> None:
        assert shares(make_plugin(TopK, topK=9), 1.0, 2.0) == pytest.approx([0.5, 0.5], abs=0.04)

    def test_chance_decides_at_the_cut(self) -> None:
        assert shares(make_plugin(TopK, topK=2), 9.0, 1.0, 1.0) == pytest.approx([0.5, 0.25, 0.25], abs=0.04)

    def test_weighted_by_score_within_the_margin(self) -> None:
        plugin = make_plugin(TopK, mode="weighted", margin=0.5)
        # The floor is 100 - 0.5 * 100.
        assert shares(plugin, 100.0, 50.0, 49.9) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.04)

    def test_margin_keeps_cache_hits(self) -> None:
        assert shares(make_plugin(TopK, mode="weighted"), 135.0, 40.0, 30.0, draws=100) == [1, 0, 0]

    def test_weighted_costs(self) -> None:
        plugin = make_plugin(TopK, mode="weighted", margin=1)
        # 10 ms, 20 ms, and 21 ms beyond the margin: 1/10 to 1/20.
        assert shares(plugin, -10.0, -20.0, -21.0) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.04)
        assert shares(plugin, 0.0, 0.0) == pytest.approx([0.5, 0.5], abs=0.04)

    @pytest.mark.parametrize("parameters", [{"topK": 0}, {"mode": "best"}, {"margin": -1}])
    def test_refuses(self, parameters: dict[str, Any]) -> None:
        with pytest.raises(msgspec.ValidationError):
            make_plugin(TopK, **parameters)


class TestMaxScore:
    @pytest.mark.parametrize(
        ("scores", "first"),
        [((1.0, 3.0, 2.0), 1), ((-5.0, -3.0), 1), ((0.1 + 0.2, 0.3), 1), ((1.0, 1.0 + 1e-7), 1), ((2.0, 2.0, 2.0), 2)],
    )
    def test_best_then_least_recently_picked(self, scores: tuple[float, ...], first: int) -> None:
        # Slot 2 never, slot 1 longer ago than slot 0.
        handle = make_handle({0: InflightLoad(last_picked=9), 1: InflightLoad(last_picked=4)})
        assert order(make_plugin(MaxScore, handle), *scores)[0] == first

    def test_lowest_slot_when_nobody_was_picked(self) -> None:
        assert order(make_plugin(MaxScore), 1.0, 1.0)[0] == 0

    def test_tolerance(self) -> None:
        handle = make_handle({0: InflightLoad(last_picked=9)})
        assert order(make_plugin(MaxScore, handle, tieTolerance=2), -10.0, -12.0, -12.1)[0] == 1
        assert order(make_plugin(MaxScore, handle, tieTolerance=1), -10.0, -12.0, -12.1)[0] == 0


def test_random_is_uniform() -> None:
    assert shares(make_plugin(Random), 100.0, 1.0, 0.0) == pytest.approx([1 / 3] * 3, abs=0.04)


class TestWeightedRandom:
    def test_in_proportion(self) -> None:
        assert shares(make_plugin(WeightedRandom), 3.0, 1.0, 0.0) == pytest.approx([0.75, 0.25, 0], abs=0.04)

    def test_small_scores_keep_their_proportion(self) -> None:
        assert shares(make_plugin(WeightedRandom), 3e-6, 1e-6) == pytest.approx([0.75, 0.25], abs=0.04)

    @pytest.mark.parametrize("scores", [(0.0, 0.0), (-1.0, -900.0)])
    def test_all_at_most_zero_is_uniform(self, scores: tuple[float, ...]) -> None:
        assert shares(make_plugin(WeightedRandom), *scores) == pytest.approx([0.5, 0.5], abs=0.04)


class TestRoundRobin:
    def test_exact_shares_whatever_the_scores(self) -> None:
        picker = make_plugin(RoundRobin)
        assert [order(picker, 9.0, 1.0, 5.0)[0] for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]

    def test_two_models_in_turn_do_not_disturb_each_other(self) -> None:
        picker, candidates = make_plugin(RoundRobin), make_candidates(1.0, 1.0, 1.0, 1.0)
        counts: Counter[int] = Counter()
        for turn in range(40):
            part = candidates[:2] if turn % 2 else candidates[2:]
            counts[picker.pick(make_request(), part, make_state())[0].endpoint.slot] += 1
        assert set(counts.values()) == {10}

    def test_forgets_a_removed_endpoint(self) -> None:
        picker = make_plugin(RoundRobin)
        assert [order(picker, 1.0, 1.0)[0] for _ in range(3)] == [0, 1, 0]
        picker.endpoint_removed(make_endpoints(1)[0])
        assert order(picker, 1.0, 1.0)[0] == 0
