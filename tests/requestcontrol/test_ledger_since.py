"""What the ledger says has changed since a reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.endpoint import NO_GROWTH, EndpointId, Growth
from pointsman.clock import ManualClock
from pointsman.requestcontrol.lane import REMEMBERED
from pointsman.requestcontrol.ledger import Ledger, Reservation

POD, OTHER = EndpointId("default/pod-0"), EndpointId("default/pod-1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def ledger(clock: ManualClock) -> Ledger:
    return Ledger(clock)


def reserve(ledger: Ledger, tokens: int = 10, ms: float = 1000.0) -> Reservation:
    return ledger.reserve(POD, uncached_tokens=tokens, context_tokens=3 * tokens, prefill_ms=ms)


def test_nothing_happened(ledger: Ledger, clock: ManualClock) -> None:
    assert ledger.since(POD, 0.0) is NO_GROWTH
    reserve(ledger)
    assert ledger.since(POD, 1000.0) is NO_GROWTH, "what came at that very moment was there"


def test_arrivals(ledger: Ledger, clock: ManualClock) -> None:
    reserve(ledger, 5)
    clock.advance(1)
    reserve(ledger, 7, ms=500)
    reserve(ledger, 9)
    assert ledger.since(POD, 1000.5) == Growth(pending=2, tokens=16)
    assert ledger.since(POD, 999.0) == Growth(pending=2, decoding=1, tokens=21)
    clock.advance(0.6)
    assert ledger.since(POD, 1000.5) == Growth(pending=1, decoding=1, tokens=16)
    assert ledger.since(OTHER, 0) is NO_GROWTH


def test_ends(ledger: Ledger, clock: ManualClock) -> None:
    old, older = reserve(ledger, 5), reserve(ledger, 6)
    clock.advance(1)
    new = reserve(ledger, 7)
    clock.advance(1)
    for reservation in (old, new, older, old):
        ledger.release(reservation)
    assert ledger.since(POD, 1000.5) == Growth(ended=2, ended_tokens=11), "what came and went leaves no trace"
    clock.advance(1)
    assert ledger.since(POD, 1002.5) is NO_GROWTH


def test_moves(ledger: Ledger, clock: ManualClock) -> None:
    reservation = reserve(ledger, 5)
    clock.advance(1)
    ledger.move(reservation, OTHER)
    assert ledger.since(POD, 1000.5) == NO_GROWTH, "it never was there, so it did not end there"
    assert ledger.since(OTHER, 1000.5) == Growth(pending=1, tokens=5)
    ledger.release(reservation)
    assert ledger.since(OTHER, 1000.5) == NO_GROWTH


def test_forgotten(ledger: Ledger, clock: ManualClock) -> None:
    reservation = reserve(ledger)
    ledger.forget(POD)
    assert ledger.since(POD, 0) is NO_GROWTH
    ledger.release(reservation)
    assert ledger.since(POD, 0) is NO_GROWTH


def test_memory_is_bounded(ledger: Ledger, clock: ManualClock) -> None:
    for _ in range(3 * REMEMBERED):
        clock.advance(0.001)
        ledger.release(reserve(ledger))
    lane = ledger._lanes[POD]
    assert len(lane.arrivals) == len(lane.departures) == REMEMBERED


@given(
    st.lists(st.tuples(st.sampled_from(["pick", "end", "wait", "first"]), st.integers(0, 5)), max_size=60), st.data()
)
def test_the_growth_is_the_difference(steps: list[tuple[str, int]], data: st.DataObject) -> None:
    clock = ManualClock(1000.0)
    ledger = Ledger(clock)
    live: list[Reservation] = []
    counts = [(1000.0, 0)]
    for step, number in steps:
        clock.advance(0.01)
        if step == "pick":
            live.append(reserve(ledger, ms=20.0 * number))
        elif step == "end" and live:
            ledger.release(live.pop(number % len(live)))
        elif step == "first" and live:
            ledger.first_token(live[number % len(live)])
        counts.append((clock.now(), len(live)))
    moment, before = data.draw(st.sampled_from(counts))
    growth = ledger.since(POD, moment)
    assert before + growth.pending + growth.decoding - growth.ended == len(live)
    assert growth.tokens == 10 * (growth.pending + growth.decoding)
    assert growth.ended_tokens == 10 * growth.ended
