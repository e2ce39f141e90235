"""Claims for a prefill alone: gone with it, and whatever comes in whatever order, nothing is left behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.endpoint import EndpointId, Growth
from pointsman.clock import ManualClock
from pointsman.requestcontrol.ledger import Ledger, Reservation

POD = EndpointId("default/pod-0")


def claim(ledger: Ledger, *, prefill_only: bool, ms: float = 1000.0) -> Reservation:
    return ledger.reserve(POD, uncached_tokens=10, context_tokens=30, prefill_ms=ms, prefill_only=prefill_only)


def test_it_leaves_when_its_prefill_should_be_over() -> None:
    clock = ManualClock(100.0)
    ledger = Ledger(clock)
    alone, whole = claim(ledger, prefill_only=True), claim(ledger, prefill_only=False)
    assert (ledger.load(POD).requests, ledger.load(POD).context_tokens) == (2, 60)
    clock.advance(1.5)
    load = ledger.load(POD)
    assert (load.requests, load.decoding, load.tokens, load.context_tokens) == (1, 0, 10, 30)
    assert load.prefill_ms == pytest.approx(500)
    ledger.release(alone)
    assert ledger.load(POD).requests == 1, "gone already"
    ledger.release(whole)
    assert ledger.totals() == (0, 0)


def test_a_first_token_lets_go_those_before_it() -> None:
    ledger = Ledger(ManualClock(100.0))
    claims = [claim(ledger, prefill_only=True) for _ in range(3)]
    ledger.first_token(claims[1])
    assert [c.released for c in claims] == [True, True, False]
    load = ledger.load(POD)
    assert (load.requests, load.tokens) == (1, 10)
    assert load.prefill_ms == pytest.approx(1000)


def test_released_early_those_behind_come_sooner() -> None:
    ledger = Ledger(ManualClock(100.0))
    first, _ = claim(ledger, prefill_only=True), claim(ledger, prefill_only=True)
    ledger.release(first)
    assert ledger.load(POD).requests == 1
    assert ledger.load(POD).prefill_ms == pytest.approx(1000)


def test_a_gauge_read_before_its_end_is_corrected_without_anyone_looking() -> None:
    clock = ManualClock(100.0)
    ledger = Ledger(clock)
    claim(ledger, prefill_only=True)
    clock.advance(0.5)
    moment = clock.now()
    clock.advance(1.0)
    assert ledger.since(POD, moment) == Growth(ended=1, ended_tokens=10)
    assert ledger.since(POD, clock.now()) == Growth()


def test_its_time_counts_until_it_left() -> None:
    clock = ManualClock(100.0)
    ledger = Ledger(clock)
    claim(ledger, prefill_only=True)
    clock.advance(5.0)
    course = ledger.course(POD)
    assert (course.requests, course.request_seconds, course.context_seconds) == (0, 1.0, 30.0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["whole", "prefill", "first", "release", "wait"]), st.integers(0, 9), st.floats(0, 3)),
    max_size=40,
)


@given(STEPS)
def test_nothing_is_left_behind(steps: list[tuple[str, int, float]]) -> None:
    clock = ManualClock(100.0)
    ledger = Ledger(clock)
    claims: list[Reservation] = []
    for what, which, amount in steps:
        if what in ("whole", "prefill"):
            claims.append(claim(ledger, prefill_only=what == "prefill", ms=amount * 1000))
        elif what == "wait":
            clock.advance(amount)
        elif claims:
            {"first": ledger.first_token, "release": ledger.release}[what](claims[which % len(claims)])
        load = ledger.load(POD)
        held = [c for c in claims if not c.released]
        assert load.requests == len(held)
        assert load.context_tokens == 30 * len(held)
        assert load.tokens == 10 * sum(not c.prefilled for c in held)
        assert 0 <= load.decoding == sum(c.prefilled for c in held)
    for reservation in claims:
        ledger.release(reservation)
    assert ledger.totals() == (0, 0)
    assert ledger.load(POD).prefill_ms == pytest.approx(0, abs=1e-6)
