from __future__ import annotations

import math

import pytest

from pointsman.datalayer.latency_window import LatencyWindow
from pointsman.datalayer.reading import Histogram, RankReading, Reading

BOUNDS = (0.1, 1.0, math.inf)


def reading(*counts: tuple[float, ...], itl: tuple[float, ...] | None = None) -> Reading:
    ranks = [RankReading(rank=n, ttft=Histogram(BOUNDS, one, 0.0)) for n, one in enumerate(counts)]
    if itl is not None:
        ranks[0] = RankReading(ttft=ranks[0].ttft, itl=Histogram(BOUNDS, itl, 0.0))
    return Reading("vllm", tuple(ranks))


def test_one_reading_says_nothing() -> None:
    window = LatencyWindow()
    window.add(reading((5, 5, 5)), 0.0)
    assert window.ttft is None
    assert window.itl is None


def test_growth_gives_quantiles() -> None:
    window = LatencyWindow()
    window.add(reading((5, 5, 5), itl=(0, 0, 0)), 0.0)
    window.add(reading((5, 15, 15), itl=(8, 8, 8)), 5.0)
    assert window.ttft is not None
    assert window.ttft.count == 10
    assert window.ttft.p50 == pytest.approx(0.55)
    assert window.itl is not None
    assert window.itl.count == 8
    assert window.itl.p50 == pytest.approx(0.05)
    window.add(reading((5, 15, 15), itl=(8, 8, 8)), 10.0)
    assert window.ttft.count == 10


def test_what_is_old_is_forgotten() -> None:
    window = LatencyWindow()
    for step in range(100):
        window.add(reading((step, step, step)), step * 5.0)
        assert len(window._past) <= 8
    assert window.ttft is not None
    assert window.ttft.count == 6, "thirty seconds of one in five"
    for step in range(100, 110):
        window.add(reading((99, 99, 99)), step * 5.0)
    assert window.ttft is None, "nothing came in the last half minute"


def test_ranks_are_taken_together() -> None:
    window = LatencyWindow()
    window.add(reading((0, 0, 0), (0, 0, 0)), 0.0)
    window.add(reading((4, 4, 4), (0, 6, 6)), 5.0)
    assert window.ttft is not None
    assert window.ttft.count == 10


def test_a_restart_begins_anew() -> None:
    window = LatencyWindow()
    window.add(reading((50, 50, 50)), 0.0)
    window.add(reading((60, 60, 60)), 5.0)
    window.add(reading((3, 3, 3)), 10.0)
    assert window.ttft is None
    window.add(reading((3, 8, 8)), 15.0)
    assert window.ttft is not None
    assert window.ttft.count == 5
