from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_endpoint, make_handle

from pointsman.api.endpoint import EndpointMetrics, Growth, InflightLoad
from pointsman.clock import ManualClock
from pointsman.framework.gauges import Gauges, corrected, gauges, kv_usage
from pointsman.framework.plugin import Handle
from pointsman.requestcontrol.ledger import Ledger

NOW = 100.0  # of make_handle's clock
LOAD = InflightLoad(requests=7, decoding=4, context_tokens=30_000)


@pytest.mark.parametrize(
    ("waiting", "running", "growth", "expected"),
    [
        (3, 8, Growth(), (3, 8)),
        (3, 8, Growth(pending=2, decoding=1), (5, 9)),
        (3, 8, Growth(ended=2), (1, 8)),
        (3, 8, Growth(ended=5), (0, 6)),
        (0, 2, Growth(ended=9), (0, 0)),
        (0, 2, Growth(pending=1, ended=9), (1, 0)),
    ],
)
def test_corrected(waiting: int, running: int, growth: Growth, expected: tuple[int, int]) -> None:
    assert corrected(EndpointMetrics(waiting=waiting, running=running), growth) == Gauges(*expected)
    endpoint = make_endpoint(waiting=waiting, running=running)
    assert gauges(endpoint, make_handle(growths={0: growth})) == Gauges(*expected)


@pytest.mark.parametrize(
    ("age", "good_for", "expected"),
    [(0, 2, (50, 9)), (1.9, 2, (50, 9)), (2, 2, (3, 4)), (10, 15, (50, 9)), (1e9, 15, (3, 4))],
)
def test_a_stale_reading_gives_way_to_the_ledger(age: float, good_for: float, expected: tuple[int, int]) -> None:
    endpoint = make_endpoint(waiting=50, running=9, updated=NOW - age, good_for=good_for)
    assert gauges(endpoint, make_handle({0: LOAD})) == Gauges(*expected)


def test_silence_is_not_saturation() -> None:
    silent = make_endpoint(waiting=10**6, running=10**6, kv_usage=1.0, updated=NOW - 60)
    assert gauges(silent, make_handle()) == Gauges(0, 0)
    assert kv_usage(silent, make_handle()) == 0.0
    never = make_endpoint()
    assert gauges(never, make_handle()) == Gauges(0, 0)


class TestKvUsage:
    def test_fresh(self) -> None:
        endpoint = make_endpoint(kv_usage=0.5, num_blocks=1000, block_size=16)
        assert kv_usage(endpoint, make_handle()) == 0.5
        # 3,000 uncached tokens and half of 256 for each of two, less one that ended with 500
        growth = Growth(pending=1, decoding=1, tokens=3000, ended=1, ended_tokens=500)
        expected = 0.5 + (3000 - 500 + 128) / 16_000
        assert kv_usage(endpoint, make_handle(growths={0: growth})) == pytest.approx(expected)

    def test_stays_within_bounds(self) -> None:
        endpoint = make_endpoint(kv_usage=0.5, num_blocks=10, block_size=16)
        assert kv_usage(endpoint, make_handle(growths={0: Growth(pending=1, tokens=10**6)})) == 1.0
        assert kv_usage(endpoint, make_handle(growths={0: Growth(ended=1, ended_tokens=10**6)})) == 0.0

    def test_stale(self) -> None:
        endpoint = make_endpoint(kv_usage=1.0, num_blocks=10_000, block_size=16, updated=NOW - 3)
        assert kv_usage(endpoint, make_handle({0: LOAD})) == pytest.approx((30_000 + 7 * 128) / 160_000)
        assert kv_usage(make_endpoint(), make_handle({0: LOAD})) == pytest.approx((30_000 + 7 * 128) / 300_000)


@given(
    st.integers(0, 100),
    st.integers(0, 100),
    st.builds(Growth, *[st.integers(0, 200)] * 5),
    st.floats(0, 1),
)
def test_never_below_nothing(waiting: int, running: int, growth: Growth, usage: float) -> None:
    endpoint = make_endpoint(waiting=waiting, running=running, kv_usage=usage)
    handle = make_handle(growths={0: growth})
    assert min(gauges(endpoint, handle)) >= 0
    assert 0 <= kv_usage(endpoint, handle) <= 1


def test_a_burst_between_two_readings_is_seen_pick_by_pick() -> None:
    clock = ManualClock(NOW)
    ledger = Ledger(clock)
    handle = make_handle(clock=clock)
    handle = Handle(clock=clock, rng=handle.rng, inflight=ledger, cost=handle.cost)
    endpoint = make_endpoint(waiting=0, running=3, updated=NOW)
    clock.advance(0.1)
    for picked in range(5):
        assert gauges(endpoint, handle) == Gauges(picked, 3)
        ledger.reserve(endpoint.id, uncached_tokens=100, context_tokens=200, prefill_ms=50)
    clock.advance(0.12)
    assert gauges(endpoint, handle) == Gauges(3, 5), "two prefills are believed to be over"
