from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.datalayer.reading import Histogram, RankReading, Reading, cumulative

BOUNDS = (0.1, 0.2, 0.4, math.inf)
SOME = Histogram(BOUNDS, (10.0, 20.0, 30.0, 40.0), 12.0)


def test_quantiles_are_prometheus_ones() -> None:
    """Values by the formula of histogram_quantile."""
    assert SOME.quantile(0.25) == pytest.approx(0.1)
    assert SOME.quantile(0.375) == pytest.approx(0.15)
    assert SOME.quantile(0.5) == pytest.approx(0.2)
    assert SOME.quantile(0.125) == pytest.approx(0.05), "the first bucket begins at 0"
    assert SOME.quantile(0.99) == 0.4, "above the highest finite bound nothing is known"
    assert SOME.quantile(0) == 0.0
    assert SOME.quantile(-0.1) == -math.inf
    assert SOME.quantile(1.1) == math.inf
    assert Histogram((-1.0, 1.0, math.inf), (2.0, 2.0, 2.0), 0.0).quantile(0.5) == -1.0


def test_no_quantile_of_nothing() -> None:
    for empty in (Histogram(BOUNDS, (0.0,) * 4, 0.0), Histogram((math.inf,), (3.0,), 1.0), Histogram((), (), 0.0)):
        assert math.isnan(empty.quantile(0.5))


def test_growth() -> None:
    later = Histogram(BOUNDS, (11.0, 22.0, 33.0, 44.0), 13.5)
    assert later.since(SOME) == Histogram(BOUNDS, (1.0, 2.0, 3.0, 4.0), 1.5)
    assert SOME.since(later) is None, "a restart"
    assert SOME.since(SOME) is None, "nothing came"
    assert SOME.since(None) is None, "no earlier reading"
    assert SOME.since(Histogram((0.1, math.inf), (1.0, 2.0), 1.0)) is None, "other bounds"
    restarted = Histogram(BOUNDS, (0.0, 5.0, 41.0, 41.0), 20.0)
    assert restarted.since(SOME) is None, "more in all, fewer in a bucket"


def test_together() -> None:
    assert SOME.plus(SOME) == Histogram(BOUNDS, (20.0, 40.0, 60.0, 80.0), 24.0)
    small = Histogram((1.0, math.inf), (1.0, 2.0), 1.0)
    assert small.plus(SOME) is SOME
    assert SOME.plus(small) is SOME


def test_buckets_are_put_right() -> None:
    assert cumulative({}, 3.0, 1.0) is None
    assert cumulative({0.2: 3.0, 0.1: 4.0}, 6.0, 1.0) == Histogram((0.1, 0.2, math.inf), (4.0, 4.0, 6.0), 1.0)
    assert cumulative({0.2: 3.0}, None, 1.0) == Histogram((0.2, math.inf), (3.0, 3.0), 1.0)


amounts = st.lists(st.integers(0, 1000), min_size=4, max_size=4)


@given(amounts, amounts, st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_growth_is_what_was_added(first: list[int], added: list[int], shares: list[float]) -> None:
    def histogram(amounts: list[int]) -> Histogram:
        return Histogram(BOUNDS, tuple(float(sum(amounts[: at + 1])) for at in range(4)), 0.0)

    growth = histogram([one + two for one, two in zip(first, added, strict=True)]).since(histogram(first))
    assert growth == (histogram(added) if sum(added) else None)
    if growth is not None:
        low, high = sorted(shares)
        assert 0 <= growth.quantile(low) <= growth.quantile(high) <= 0.4


def test_the_port_as_a_whole() -> None:
    ranks = (
        RankReading(rank=0, waiting=1, running=2, kv_usage=0.5, block_size=None, num_blocks=10, max_num_seqs=8),
        RankReading(rank=1, waiting=3, running=4, kv_usage=1.0, block_size=16, num_blocks=None, max_num_seqs=8),
    )
    metrics = Reading("vllm", ranks, 3).metrics(4.0)
    assert (metrics.waiting, metrics.running, metrics.kv_usage) == (4, 6, 0.75)
    assert (metrics.block_size, metrics.num_blocks, metrics.max_num_seqs) == (16, 10, 16)
    assert (metrics.engine, metrics.ranks, metrics.source, metrics.updated) == ("vllm", 2, "scrape", 4.0)
    assert metrics.ttft is metrics.itl is None
