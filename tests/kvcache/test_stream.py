from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pointsman.kvcache.events import AllCleared, EventBatch
from pointsman.kvcache.stream import EventStream
from pointsman.kvcache.stream_types import Action, Apply, DropState, RequestReplay, StreamOptions

REPLAY = StreamOptions(can_replay=True)


def batch(ts: float) -> EventBatch:
    return EventBatch(ts, ())


def applied(actions: list[Action]) -> list[float]:
    return [action.batch.ts for action in actions if isinstance(action, Apply)]


def feed(stream: EventStream, *numbers: int, now: float = 0.0, offset: float = 0.0) -> list[Action]:
    """Live batches whose time is their number."""
    actions: list[Action] = []
    for number in numbers:
        actions += stream.live(number, batch(number + offset), now, number + offset + 0.5)
    return actions


def test_batches_in_order_are_applied_at_once() -> None:
    stream = EventStream()
    assert applied(feed(stream, 0, 1, 2)) == [0, 1, 2]
    assert (stream.confidence(0), stream.last_lag, stream.lag) == (1.0, 0.5, 0.5)
    assert not stream.waiting


def test_nothing_heard_means_no_confidence() -> None:
    assert EventStream().confidence(0) == 0.0


def test_a_gap_is_asked_for_and_what_follows_is_held() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 1)
    assert feed(stream, 4) == [RequestReplay(1)]
    assert feed(stream, 5) == []
    assert stream.replayed(1, batch(1), 0) == []  # the overlap is the same batch: the same process
    assert applied(stream.replayed(2, batch(2), 0)) == [2]
    assert applied(stream.replayed(3, batch(3), 0)) == [3, 4, 5]
    assert stream.replay_ended(0) == []
    assert (stream.stats.gaps, stream.stats.lost, stream.confidence(0)) == (1, 0, 1.0)


def test_lost_history_keeps_the_state_and_lowers_confidence() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 1)
    feed(stream, 5)
    assert stream.replayed(4, batch(4), 0) == []
    assert applied(stream.replay_ended(0)) == [4, 5]
    assert (stream.stats.lost, stream.confidence(0)) == (2, 4 / 6)
    assert applied(feed(stream, 6)) == [6]


def test_a_replay_without_answer_is_given_up_and_not_asked_for_again_at_once() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0)
    assert feed(stream, 2) == [RequestReplay(0)]
    assert stream.tick(1.9) == []
    assert applied(stream.tick(2.0)) == [2]
    assert feed(stream, 4, now=3.0) == []
    assert applied(stream.tick(3.1)) == [4]
    assert feed(stream, 6, now=8.0) == [RequestReplay(4)]


def test_a_replay_cut_short_is_asked_for_again() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 9)
    assert applied(stream.replayed(1, batch(1), 0)) == [1]
    assert stream.tick(2.5) == [RequestReplay(1)]
    for number in range(2, 9):
        stream.replayed(number, batch(number), 2.5)
    assert (stream.stats.batches, stream.stats.lost) == (10, 0)


def test_late_start_asks_from_the_beginning() -> None:
    stream = EventStream(REPLAY)
    assert feed(stream, 7) == [RequestReplay(0)]
    assert applied(stream.replayed(5, batch(5), 0)) == [5]
    assert applied(stream.replayed(6, batch(6), 0)) == [6, 7]
    assert stream.replay_ended(0) == []
    assert stream.confidence(0) == 3 / 8


def test_late_start_without_replay_goes_on_from_there() -> None:
    stream = EventStream()
    assert feed(stream, 7, 8) == []  # an earlier one may be late
    assert applied(stream.tick(0.05)) == [7, 8]
    assert (stream.stats.gaps, stream.stats.lost, stream.confidence(0)) == (0, 7, 2 / 9)


def test_connecting_to_an_idle_engine_loads_its_history() -> None:
    stream = EventStream(REPLAY)
    assert stream.connected(0) == [RequestReplay(0)]
    assert stream.connected(0) == []
    assert applied(stream.replayed(0, batch(0), 0)) == [0]
    assert stream.replay_ended(0) == []
    assert stream.confidence(0) == 1.0


def test_an_engine_without_history_is_known_to_be_empty() -> None:
    stream = EventStream(REPLAY)
    stream.connected(0)
    stream.replay_ended(0)
    assert stream.confidence(0) == 1.0


def test_a_lower_number_is_a_restart() -> None:
    stream = EventStream()
    feed(stream, 0, 1, 2)
    actions = feed(stream, 0, 1, offset=100)
    assert actions[0] == DropState()
    assert applied(actions) == [100, 101]
    assert (stream.stats.restarts, stream.confidence(0)) == (1, 1.0)


def test_a_restart_far_back_needs_no_clock() -> None:
    stream = EventStream()
    feed(stream, *range(200))
    assert feed(stream, 0)[0] == DropState()


def test_a_restart_during_a_gap() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 1, 5)
    actions = feed(stream, 3, offset=100)  # younger than 5, so not the missing 3
    assert actions == [DropState(), RequestReplay(0)]
    assert applied(stream.replayed(0, batch(100), 0)) == [100]


def test_a_reconnect_finds_another_process_with_as_many_batches() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 1, 2)
    assert stream.connected(0) == [RequestReplay(2)]
    assert stream.replayed(2, batch(102), 0) == [DropState(), RequestReplay(0)]


def test_a_reconnect_finds_another_process_with_fewer_batches() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 1, 2)
    stream.connected(0)
    assert stream.replay_ended(0) == [DropState(), RequestReplay(0)]


def test_duplicates_are_ignored() -> None:
    stream = EventStream()
    assert applied(feed(stream, 0, 1, 1, 0, 2)) == [0, 1, 2]
    assert (stream.stats.duplicates, stream.stats.restarts) == (2, 0)


def test_a_first_batch_may_be_late() -> None:
    stream = EventStream()
    assert applied(feed(stream, 1, 0, 2)) == [0, 1, 2]
    assert (stream.stats.lost, stream.waiting) == (0, False)


def test_late_batches_fill_their_gap() -> None:
    stream = EventStream()
    assert applied(feed(stream, 0, 2, 3, 1, 4)) == [0, 1, 2, 3, 4]
    assert (stream.stats.gaps, stream.stats.lost) == (1, 0)


def test_without_replay_a_late_batch_is_waited_for_briefly() -> None:
    stream = EventStream()
    feed(stream, 0, 2)
    assert stream.waiting
    assert applied(stream.tick(0.06)) == [2]
    assert (stream.stats.lost, stream.waiting) == (1, False)


def test_not_too_much_is_held_back() -> None:
    stream = EventStream()
    assert applied(feed(stream, 0, *range(2, 70))) == [0, *range(2, 70)]
    replaying = EventStream(StreamOptions(can_replay=True, hold=10))
    feed(replaying, 0, *range(2, 20))
    assert (replaying.stats.batches, replaying.stats.failed_replays) == (19, 1)


def test_an_unreadable_batch_is_a_gap() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0)
    assert stream.live(1, None, 0, 0) == [RequestReplay(0)]
    assert applied(stream.replayed(1, batch(1), 0)) == [1]
    other = EventStream()
    feed(other, 0)
    other.live(1, None, 0, 0)
    assert applied(feed(other, 2)) == []
    assert applied(other.tick(1)) == [2]
    assert (other.stats.gaps, other.stats.lost, other.stats.bad) == (1, 1, 1)


def test_an_unreadable_last_batch_is_skipped() -> None:
    stream = EventStream()
    feed(stream, 0)
    stream.live(1, None, 0, 0)
    stream.tick(1)
    assert applied(feed(stream, 2, now=2)) == [2]
    assert stream.stats.gaps == 1


def test_clearing_makes_the_state_whole_again() -> None:
    stream = EventStream()
    feed(stream, 9)
    stream.tick(1)
    stream.live(10, EventBatch(10, (AllCleared(),)), 0, 0)
    assert stream.confidence(0) == 1.0


def test_silence_after_work_is_distrusted() -> None:
    stream = EventStream()
    feed(stream, 0)
    assert stream.confidence(1000) == 1.0
    stream.expect(1000)
    assert stream.confidence(1009) == 1.0
    assert stream.confidence(1011) == 0.0
    feed(stream, 1, now=1012)
    assert stream.confidence(1012) == 1.0
    assert stream.silent_for(1013) == 1


class Cut(RuleBasedStateMachine):
    """An engine, a line that loses, repeats, reorders, and a replay buffer, against what the engine really sent."""

    @initialize(keep=st.sampled_from([0, 3, 1000]), seed=st.integers(0, 99))
    def begin(self, keep: int, seed: int) -> None:
        self.keep = keep
        self.options = StreamOptions(can_replay=keep > 0)
        self.stream = EventStream(self.options)
        self.now, self.rng = 0.0, random.Random(seed)
        self.sent: list[EventBatch] = []  # by the process now running
        self.line: list[tuple[int, EventBatch]] = []
        self.state: list[float] = []  # what the view would hold: applied since the last drop
        self.request: int | None = None

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, DropState):
                self.state.clear()
            elif isinstance(action, RequestReplay):
                self.request = action.start
            else:
                self.state.append(action.batch.ts)

    @rule(count=st.integers(1, 5))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.now += 0.01
            self.sent.append(batch(self.now))
            self.line.append((len(self.sent) - 1, self.sent[-1]))

    @rule()
    def lose(self) -> None:
        self.line.clear()

    @rule()
    @precondition(lambda self: len(self.line) > 1)
    def swap(self) -> None:
        at = self.rng.randrange(len(self.line) - 1)
        self.line[at], self.line[at + 1] = self.line[at + 1], self.line[at]

    @rule()
    @precondition(lambda self: self.line)
    def repeat(self) -> None:
        self.line.insert(self.rng.randrange(len(self.line) + 1), self.rng.choice(self.line))

    @rule()
    def restart(self) -> None:
        self.deliver()  # a line belongs to a process: it ends before the next begins
        self.now += 1
        self.sent = []

    @rule()
    def deliver(self) -> None:
        for number, sent in self.line:
            self.do(self.stream.live(number, sent, self.now, self.now))
        self.line.clear()

    @rule(short=st.booleans())
    def answer(self, short: bool) -> None:
        if self.request is None:
            return
        start, self.request = self.request, None
        oldest = max(0, len(self.sent) - self.keep)
        for number in range(max(start, oldest), len(self.sent)):
            self.do(self.stream.replayed(number, self.sent[number], self.now))
            if short:
                return
            if self.request is not None:
                self.answer(short=False)
                return
        self.do(self.stream.replay_ended(self.now))

    @rule()
    def wait(self) -> None:
        self.now += 20
        self.do(self.stream.tick(self.now))

    @rule()
    def reconnect(self) -> None:
        self.do(self.stream.connected(self.now))

    @invariant()
    def order_is_kept(self) -> None:
        if hasattr(self, "state"):
            assert self.state == sorted(set(self.state))
            assert 0.0 <= self.stream.confidence(self.now) <= 1.0

    def teardown(self) -> None:
        """Quiet at last: everything still to be had is had."""
        if not hasattr(self, "state"):
            return
        self.send(1)
        self.deliver()
        for _ in range(10):
            self.answer(short=False)
            self.wait()
        self.do(self.stream.connected(self.now))
        self.answer(short=False)
        self.send(1)
        self.deliver()
        self.wait()
        truth = [sent.ts for sent in self.sent]
        mine = [ts for ts in self.state if ts in truth]
        assert self.state[-1:] == truth[-1:]
        assert self.stream.held == 0
        if self.keep == 1000:
            assert mine == self.state, "blocks of a process that is gone"
        if self.keep == 1000 and not self.stream.stats.failed_replays:
            assert self.state == truth
            assert self.stream.confidence(self.now) == 1.0


TestCut = Cut.TestCase
TestCut.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("cut", [3, 40, 150])
def test_a_copy_of_the_stream_from_its_start_leads_to_the_same_state(cut: int) -> None:
    stream = EventStream()
    state: list[float] = []
    for number in [*range(cut), *range(187)]:
        for action in stream.live(number, batch(number), 0, 0):
            if isinstance(action, DropState):
                state.clear()
            elif isinstance(action, Apply):
                state.append(action.batch.ts)
    assert state == list(range(187))
