"""Ledger: what is in flight is counted at once, drains by the clock, and never goes below nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pointsman.api.endpoint import NO_LOAD, EndpointId, InflightLoad
from pointsman.clock import ManualClock
from pointsman.requestcontrol.ledger import Ledger, Reservation

POD = EndpointId("default/pod-0")
OTHER = EndpointId("default/pod-1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def ledger(clock: ManualClock) -> Ledger:
    return Ledger(clock)


def reserve(ledger: Ledger, *, ms: float = 1000.0, tokens: int = 10, pod: EndpointId = POD) -> Reservation:
    return ledger.reserve(pod, uncached_tokens=tokens, context_tokens=3 * tokens, prefill_ms=ms)


def test_an_endpoint_never_picked_has_no_load(ledger: Ledger) -> None:
    assert ledger.load(POD) == InflightLoad()
    assert ledger.totals() == (0, 0)


def test_a_reservation_counts_at_once(ledger: Ledger) -> None:
    reserve(ledger)
    reserve(ledger, tokens=5)
    expected = InflightLoad(requests=2, tokens=15, prefill_ms=2000.0, decoding=0, context_tokens=45, last_picked=2)
    assert ledger.load(POD) == expected
    assert ledger.load(OTHER) is NO_LOAD
    assert ledger.totals() == (2, 15)


@pytest.mark.parametrize(
    ("seconds", "prefill_ms", "tokens", "decoding"),
    [
        (0.0, 2000, 15, 0),
        (0.5, 1500, 15, 0),
        (0.999, 1001, 15, 0),
        (1.0, 1000, 5, 1),
        (1.5, 500, 5, 1),
        (2.0, 0, 0, 2),
        (100.0, 0, 0, 2),
    ],
)
def test_prefill_work_drains_as_time_passes(
    ledger: Ledger, clock: ManualClock, seconds: float, prefill_ms: float, tokens: int, decoding: int
) -> None:
    reserve(ledger)
    reserve(ledger, tokens=5)
    clock.advance(seconds)
    load = ledger.load(POD)
    assert load.prefill_ms == pytest.approx(prefill_ms)
    assert (load.requests, load.tokens, load.decoding, load.context_tokens) == (2, tokens, decoding, 45)


def test_work_reserved_after_an_idle_time_starts_now(ledger: Ledger, clock: ManualClock) -> None:
    reserve(ledger)
    clock.advance(60)
    reserve(ledger)
    assert ledger.load(POD).prefill_ms == pytest.approx(1000)


def test_no_uncached_tokens_are_no_prefill(ledger: Ledger) -> None:
    reserve(ledger, ms=0.0, tokens=0)
    load = ledger.load(POD)
    assert (load.requests, load.tokens, load.prefill_ms, load.decoding) == (1, 0, 0.0, 1)


class TestFirstToken:
    def test_earlier_than_expected_starts_the_next_one_now(self, ledger: Ledger, clock: ManualClock) -> None:
        first, _ = reserve(ledger), reserve(ledger)
        clock.advance(0.25)
        ledger.first_token(first)
        load = ledger.load(POD)
        assert load.prefill_ms == pytest.approx(1000)
        assert (load.tokens, load.decoding) == (10, 1)

    def test_of_a_later_request_ends_all_before_it(self, ledger: Ledger, clock: ManualClock) -> None:
        _, _, third, _ = (reserve(ledger) for _ in range(4))
        clock.advance(0.1)
        ledger.first_token(third)
        load = ledger.load(POD)
        assert (load.requests, load.tokens, load.decoding) == (4, 10, 3)
        assert load.prefill_ms == pytest.approx(1000)

    @pytest.mark.parametrize("read_before", [False, True])
    def test_of_one_that_was_believed_done_changes_nothing_behind_it(
        self, ledger: Ledger, clock: ManualClock, read_before: bool
    ) -> None:
        first, _ = reserve(ledger), reserve(ledger)
        clock.advance(1.5)
        if read_before:
            ledger.load(POD)
        ledger.first_token(first)
        assert ledger.load(POD).prefill_ms == pytest.approx(500)

    def test_seen_twice_counts_once(self, ledger: Ledger) -> None:
        first, _ = reserve(ledger), reserve(ledger)
        ledger.first_token(first)
        ledger.first_token(first)
        assert ledger.load(POD).tokens == 10

    def test_after_the_end_changes_nothing(self, ledger: Ledger) -> None:
        first, _ = reserve(ledger), reserve(ledger)
        ledger.release(first)
        ledger.first_token(first)
        load = ledger.load(POD)
        assert (load.requests, load.tokens) == (1, 10)
        assert load.prefill_ms == pytest.approx(1000)


class TestRelease:
    @pytest.mark.parametrize(
        ("after", "which", "ahead_ms"),
        [
            (0.0, 0, 2000),
            (0.0, 1, 2000),
            (0.0, 2, 2000),
            (0.8, 0, 2000),  # the head had 200 ms to go: those behind it come forward by that, not by its whole second
            (0.8, 1, 1200),
            (0.8, 2, 1200),
            (1.5, 0, 1500),  # its prefill is over: nothing moves
            (1.5, 1, 1000),
        ],
    )
    def test_before_its_prefill_pulls_those_behind_forward(
        self, ledger: Ledger, clock: ManualClock, after: float, which: int, ahead_ms: float
    ) -> None:
        queue = [reserve(ledger) for _ in range(3)]
        clock.advance(after)
        ledger.release(queue[which])
        assert ledger.load(POD).prefill_ms == pytest.approx(ahead_ms)
        clock.advance(ahead_ms / 1000 - 0.001)
        assert ledger.load(POD).tokens == (10 if which < 2 or after < 2 else 0)
        clock.advance(0.002)
        assert (ledger.load(POD).tokens, ledger.load(POD).decoding) == (0, 2)

    def test_of_all_leaves_nothing(self, ledger: Ledger) -> None:
        queue = [reserve(ledger) for _ in range(5)]
        for reservation in reversed(queue):
            ledger.release(reservation)
        assert ledger.load(POD) == InflightLoad(last_picked=5)
        assert ledger.totals() == (0, 0)

    def test_twice_counts_once(self, ledger: Ledger) -> None:
        first, _ = reserve(ledger), reserve(ledger)
        ledger.release(first)
        ledger.release(first)
        load = ledger.load(POD)
        assert (load.requests, load.tokens, load.context_tokens) == (1, 10, 30)

    def test_while_it_decodes_gives_its_context_back(self, ledger: Ledger, clock: ManualClock) -> None:
        first = reserve(ledger)
        ledger.first_token(first)
        clock.advance(5)
        assert ledger.load(POD).decoding == 1
        ledger.release(first)
        assert ledger.load(POD) == InflightLoad(last_picked=1)


class TestForget:
    def test_an_endpoint_that_is_gone_has_no_load(self, ledger: Ledger) -> None:
        reserve(ledger)
        ledger.forget(POD)
        assert ledger.load(POD) == InflightLoad()
        assert ledger.totals() == (0, 0)
        ledger.forget(POD)

    @pytest.mark.parametrize("seconds", [0.0, 10.0])
    def test_old_claims_never_touch_one_that_comes_back_under_the_same_name(
        self, ledger: Ledger, clock: ManualClock, seconds: float
    ) -> None:
        old = [reserve(ledger) for _ in range(3)]
        ledger.forget(POD)
        reserve(ledger, tokens=7)
        clock.advance(seconds)
        ledger.first_token(old[1])
        for reservation in old:
            ledger.release(reservation)
        load = ledger.load(POD)
        assert (load.requests, load.context_tokens) == (1, 21)
        assert load.tokens == (7 if not seconds else 0)
        assert load.last_picked == 4


def test_last_picked_tells_who_was_picked_longest_ago(ledger: Ledger) -> None:
    for pod in (POD, OTHER, POD):
        ledger.release(reserve(ledger, pod=pod))
    assert (ledger.load(POD).last_picked, ledger.load(OTHER).last_picked) == (3, 2)
    assert ledger.load(EndpointId("default/never")).last_picked == 0


def test_a_moved_reservation_counts_where_it_was_served(ledger: Ledger, clock: ManualClock) -> None:
    first, moved = reserve(ledger), reserve(ledger, tokens=5)
    there = reserve(ledger, pod=OTHER)
    clock.advance(0.5)
    ledger.move(moved, OTHER)
    assert ledger.load(POD) == InflightLoad(
        requests=1, tokens=10, prefill_ms=500.0, decoding=0, context_tokens=30, last_picked=2
    )
    assert ledger.load(OTHER) == InflightLoad(
        requests=2, tokens=15, prefill_ms=1500.0, decoding=0, context_tokens=45, last_picked=3
    )
    ledger.move(moved, OTHER)
    assert ledger.totals() == (3, 25)
    for reservation in (first, moved, there, moved):
        ledger.release(reservation)
    assert ledger.totals() == (0, 0)


def test_a_moved_reservation_that_is_prefilled_stays_so(ledger: Ledger) -> None:
    moved = reserve(ledger)
    ledger.first_token(moved)
    ledger.move(moved, OTHER)
    assert ledger.load(POD).requests == 0
    assert ledger.load(OTHER) == InflightLoad(requests=1, decoding=1, context_tokens=30)
    ledger.first_token(moved)
    ledger.release(moved)
    assert ledger.totals() == (0, 0)


def test_a_released_reservation_does_not_move(ledger: Ledger) -> None:
    gone = reserve(ledger)
    ledger.release(gone)
    ledger.move(gone, OTHER)
    assert ledger.load(OTHER) is NO_LOAD


class LedgerMachine(RuleBasedStateMachine):
    """Any life of a ledger, beside a model that only remembers which reservations are open where."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(50.0)
        self.ledger = Ledger(self.clock)
        self.made: list[tuple[Reservation, EndpointId]] = []
        self.open: dict[EndpointId, list[Reservation]] = {EndpointId(f"default/pod-{i}"): [] for i in range(3)}

    @rule(
        pod=st.sampled_from([EndpointId(f"default/pod-{i}") for i in range(3)]),
        tokens=st.integers(0, 5000),
        cached=st.integers(0, 5000),
        ms=st.floats(0, 5000),
    )
    def reserve(self, pod: EndpointId, tokens: int, cached: int, ms: float) -> None:
        made = self.ledger.reserve(pod, uncached_tokens=tokens, context_tokens=tokens + cached, prefill_ms=ms)
        self.made.append((made, pod))
        self.open[pod].append(made)

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        self.ledger.first_token(data.draw(st.sampled_from(self.made))[0])

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        reservation, pod = data.draw(st.sampled_from(self.made))
        self.ledger.release(reservation)
        self.open[pod] = [other for other in self.open[pod] if other is not reservation]

    @precondition(lambda self: self.made)
    @rule(data=st.data(), to=st.sampled_from([EndpointId(f"default/pod-{i}") for i in range(3)]))
    def move(self, data: st.DataObject, to: EndpointId) -> None:
        reservation, pod = data.draw(st.sampled_from(self.made))
        lane = reservation.lane
        self.ledger.move(reservation, to)
        if reservation.released or reservation.lane is lane:
            return
        self.open[pod] = [other for other in self.open[pod] if other is not reservation]
        self.open[to].append(reservation)
        self.made = [(made, to if made is reservation else where) for made, where in self.made]

    @rule(pod=st.sampled_from([EndpointId(f"default/pod-{i}") for i in range(3)]))
    def forget(self, pod: EndpointId) -> None:
        self.ledger.forget(pod)
        self.open[pod] = []

    @rule(seconds=st.floats(0, 10))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def counts_are_those_of_the_open_reservations(self) -> None:
        for pod, reservations in self.open.items():
            load = self.ledger.load(pod)
            pending = [r for r in reservations if not r.prefilled]
            assert load.requests == len(reservations)
            assert load.context_tokens == sum(r.context_tokens for r in reservations)
            assert load.tokens == sum(r.tokens for r in pending)
            assert load.decoding == len(reservations) - len(pending)
            assert 0 <= load.prefill_ms <= sum(r.prefill_ms for r in pending) + 1e-6
            assert all(before.ends <= after.ends + 1e-9 for before, after in pairwise(pending))
        everything = [r for reservations in self.open.values() for r in reservations]
        assert self.ledger.totals() == (len(everything), sum(r.tokens for r in everything if not r.prefilled))
        assert InflightLoad() == NO_LOAD

    def teardown(self) -> None:
        for reservation, _ in self.made:
            self.ledger.release(reservation)
        assert self.ledger.totals() == (0, 0)
        for pod in self.open:
            load = self.ledger.load(pod)
            assert (load.requests, load.tokens, load.prefill_ms, load.decoding, load.context_tokens) == (0, 0, 0, 0, 0)


LedgerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAnyLifeOfALedger = LedgerMachine.TestCase
