from __future__ import annotations

import msgspec
import pytest
from tests.builders import make_endpoints, make_handle, make_plugin, make_request

from pointsman.framework.keys import LatencyPrediction, latency_prediction_key
from pointsman.framework.state import CycleState
from pointsman.plugins.filters.slo_headroom_tier import SloHeadroomTier

ENDPOINTS = make_endpoints(4)


def kept(headrooms: dict[int, tuple[float, float]], epsilon: float = 0, seed: int = 0) -> list[int]:
    state = CycleState()
    state.write(latency_prediction_key(), {slot: LatencyPrediction(1, 1, *room) for slot, room in headrooms.items()})
    plugin = make_plugin(SloHeadroomTier, make_handle(seed=seed), epsilonExploreNeg=epsilon)
    return [endpoint.slot for endpoint in plugin.filter(make_request(), ENDPOINTS, state)]


@pytest.mark.parametrize(
    ("headrooms", "epsilon", "slots"),
    [
        ({0: (5, 5), 1: (-1, 5), 2: (5, -1), 3: (0, 0)}, 0, [0, 3]),
        ({0: (5, 5), 1: (-1, 5), 2: (5, -1), 3: (0, 0)}, 1, [1, 2]),
        ({0: (5, 5), 1: (5, 5)}, 0, [0, 1]),  # without a prediction nobody knows
        (dict.fromkeys(range(4), (-1.0, -1.0)), 0, [0, 1, 2, 3]),
        (dict.fromkeys(range(4), (1.0, 1.0)), 1, [0, 1, 2, 3]),
        ({}, 1, [0, 1, 2, 3]),
    ],
)
def test_table(headrooms: dict[int, tuple[float, float]], epsilon: float, slots: list[int]) -> None:
    assert kept(headrooms, epsilon) == slots


def test_explores_in_its_share() -> None:
    runs = [kept({0: (1, 1), 1: (-1, 1)}, 0.25, seed) for seed in range(400)]
    assert 60 < runs.count([1, 2, 3]) < 140
    assert all(run in ([0], [1, 2, 3]) for run in runs)


def test_without_a_producer_at_work_all_stay() -> None:
    plugin = make_plugin(SloHeadroomTier)
    assert plugin.filter(make_request(), ENDPOINTS, CycleState()) == ENDPOINTS
    assert [spec.type for spec in plugin.requires()] == ["predicted-latency-producer"]


def test_refuses() -> None:
    with pytest.raises(msgspec.ValidationError, match="epsilonExploreNeg"):
        make_plugin(SloHeadroomTier, epsilonExploreNeg=2)
