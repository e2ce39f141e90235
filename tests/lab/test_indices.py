"""Indices on cases computed by hand."""

from __future__ import annotations

import pytest

from pointsman.lab.indices import herding, hot_spot, imbalance, indices_of
from pointsman.lab.oracle import Achievable
from pointsman.lab.oracle_ttft import TtftBound
from pointsman.lab.results import LoadSample, Row, RunResult


def sample(at: float, *loads: int) -> LoadSample:
    return LoadSample(at, loads, [0] * len(loads), [0.0] * len(loads))


def picks(pods: list[int], gap: float = 0.1) -> list[Row]:
    return [Row(str(number), number * gap, 10, 1, pod=pod) for number, pod in enumerate(pods)]


def test_hot_spot_weighs_by_time_and_leaves_idle_moments_out() -> None:
    # 1 s at 4/2 = 2, 3 s at 1, then idle; the last sample stands for no time.
    samples = [sample(0, 4, 0), sample(1, 2, 2), sample(4, 0, 0), sample(9, 8, 0)]
    assert hot_spot(samples) == pytest.approx((1 * 2 + 3 * 1) / 4)
    assert hot_spot([sample(0, 0, 0), sample(1, 0, 0)]) is None
    assert hot_spot([]) is None


def test_hot_spot_counts_the_queue() -> None:
    queued = [LoadSample(0, [1, 1], [2, 0], [0, 0]), sample(1, 0, 0)]
    assert hot_spot(queued) == pytest.approx(3 / 2)


def test_herding_by_hand() -> None:
    assert herding(picks([0, 1, 0, 1]), 0.2) == pytest.approx((0 - 0.5) / 0.5)
    assert herding(picks([0, 0, 0, 0, 1, 1, 1, 1]), 0.2) == pytest.approx((6 / 7 - 0.5) / 0.5)


def test_herding_asks_only_of_picks_close_in_time() -> None:
    assert herding(picks([0, 1, 0, 1], gap=1.0), 0.2) is None
    assert herding(picks([0, 0, 0]), 0.2) is None  # a single pod says nothing
    assert herding(picks([-1, 0, -1, 1]), 0.5) == pytest.approx(-1.0)  # refused requests are no picks


def test_imbalance_by_hand() -> None:
    assert imbalance([3.0, 1.0]) == pytest.approx(1.5)
    assert imbalance([0.0, 0.0]) is None
    assert imbalance([]) is None


def test_regret_is_what_was_left() -> None:
    rows = [Row("a", 0.0, 100, 1, pod=0, cached_tokens=20, first_token=0.5, end=1.0, status=200)]
    bound = TtftBound(100.0, {}, 100.0)
    best = Achievable(
        requests=1,
        prompt_tokens=100,
        capacity_tokens=1,
        lru_tokens=60,
        belady_tokens=70,
        unlimited_tokens=80,
        ttft=bound,
    )
    found = indices_of(RunResult("p", "w", rows, [], busy_s=[1.0]), best, 0.2)
    assert found.ttft_regret_ms == pytest.approx(400.0)
    assert found.hit_regret == pytest.approx(0.4)
    assert found.hot_spot is None
