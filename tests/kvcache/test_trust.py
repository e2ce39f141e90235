"""The rules of :mod:`pointsman.kvcache.trust`, by themselves and as a stream plays them out."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.kvcache.test_stream import REPLAY, applied, batch, feed

from pointsman.kvcache.events import AllCleared, EventBatch
from pointsman.kvcache.stream import EventStream
from pointsman.kvcache.stream_types import RequestReplay
from pointsman.kvcache.trust import BEHIND, Trust
from pointsman.plugins.producers.precise_prefix_cache import ENOUGH


def test_who_is_behind_is_not_believed() -> None:
    assert BEHIND < ENOUGH


@settings(deadline=None)
@given(
    had=st.integers(0, 50),
    before=st.integers(0, 50),
    lost=st.integers(0, 50),
    waiting=st.integers(0, 50),
    coverage=st.floats(0, 1),
    level=st.booleans(),
)
def test_more_lost_is_never_better(
    *, had: int, before: int, lost: int, waiting: int, coverage: float, level: bool
) -> None:
    trust = Trust(10.0)
    trust.heard, trust.level = True, level
    for _ in range(had):
        trust.had()
    values = [trust.confidence(0, 0, 1.0)]
    trust.lost(before, at_start=True)
    values.append(trust.confidence(0, 0, coverage))
    trust.lost(lost, at_start=False)
    values.append(trust.confidence(0, 0, coverage))
    values.append(trust.confidence(0, waiting, coverage))
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= (1 if level else BEHIND) for value in values)
    trust.empty()
    assert trust.confidence(0, 0, 0.0) == (1.0 if level else BEHIND)


def test_a_replay_under_way_is_not_believed() -> None:
    stream = EventStream(REPLAY)
    assert stream.connected(0) == [RequestReplay(0)]
    assert stream.confidence(0) == 0.0
    for number in range(5):
        stream.replayed(number, batch(number), 0)
        assert stream.confidence(0) < ENOUGH
    feed(stream, 9)  # held back: so much is still to come
    assert stream.confidence(0) < ENOUGH
    for number in range(5, 9):
        stream.replayed(number, batch(number), 0)
    assert stream.confidence(0) == 1.0, "level with the last live batch, whatever the replay still repeats"
    stream.replay_ended(0)
    assert stream.confidence(0) == 1.0


def test_a_replay_of_all_there_is() -> None:
    stream = EventStream(REPLAY)
    stream.connected(0)
    for number in range(5):
        stream.replayed(number, batch(number), 0)
    assert stream.confidence(0) == BEHIND
    stream.replay_ended(0)
    assert stream.confidence(0) == 1.0


def test_a_replay_of_the_last_part() -> None:
    stream = EventStream(REPLAY)
    stream.connected(0)
    stream.replayed(6, batch(6), 0)
    stream.replayed(7, batch(7), 0)
    assert stream.confidence(0) == pytest.approx(2 / 8)
    stream.replay_ended(0)
    assert stream.confidence(0) == pytest.approx(2 / 8)


def test_a_stream_from_its_start_waits_for_no_replay() -> None:
    stream = EventStream(REPLAY)
    stream.connected(0)
    assert applied(feed(stream, 0)) == [0]
    assert stream.confidence(0) == 1.0


def test_a_replay_that_times_out_leaves_what_it_brought_in_doubt() -> None:
    stream = EventStream(REPLAY)
    stream.connected(0)
    for number in range(3):
        stream.replayed(number, batch(number), 0)
    now = 0.0
    while stream.waiting:
        now += 2.5
        stream.tick(now)
    assert stream.stats.failed_replays == 1
    assert stream.confidence(now) == BEHIND, "how far the engine has got, nobody knows"
    feed(stream, 3, now=now)
    assert stream.confidence(now) == 1.0


def test_a_connection_made_again_is_in_doubt_until_it_is_known_what_was_missed() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 1, 2)
    assert stream.connected(0) == [RequestReplay(2)]
    assert stream.confidence(0) == BEHIND
    stream.replayed(2, batch(2), 0)
    assert stream.confidence(0) == BEHIND
    stream.replay_ended(0)
    assert stream.confidence(0) == 1.0
    without = EventStream()
    feed(without, 0, 1, 2)
    without.connected(0)
    assert without.confidence(0) == BEHIND
    feed(without, 3)
    assert without.confidence(0) == 1.0


def test_another_process_found_by_replay_is_in_doubt_until_its_end() -> None:
    stream = EventStream(REPLAY)
    feed(stream, 0, 1)
    stream.connected(0)
    stream.replayed(1, batch(101), 0)
    stream.replayed(0, batch(100), 0)
    stream.replayed(1, batch(101), 0)
    assert stream.confidence(0) <= BEHIND
    stream.replay_ended(0)
    assert stream.confidence(0) == 1.0


def test_what_waits_behind_a_gap_counts_as_lost_meanwhile() -> None:
    stream = EventStream(REPLAY)
    feed(stream, *range(6))
    feed(stream, 7)
    assert stream.confidence(0) == pytest.approx(6 / 8)
    stream.replayed(6, batch(6), 0)
    assert stream.confidence(0) == 1.0


def test_a_late_start_without_replay_grows_with_what_is_known() -> None:
    stream = EventStream()
    feed(stream, 1000)
    stream.tick(1)
    assert stream.confidence(1) == pytest.approx(1 / 1001)
    shares = [stream.confidence(1, coverage / 10) for coverage in range(11)]
    assert shares == pytest.approx([1 / 1001, *(coverage / 10 for coverage in range(1, 11))])
    feed(stream, 1003, now=1)
    stream.tick(2)
    assert stream.confidence(2, 1.0) == pytest.approx(2 / 4), "what was lost later is wrong, not just missing"
    stream.live(1004, EventBatch(1004, (AllCleared(),)), 2, 2)
    assert stream.confidence(2) == 1.0


def test_what_is_still_to_be_applied_is_not_known() -> None:
    stream = EventStream()
    feed(stream, *range(10))
    assert [stream.confidence(0, late=late) for late in (0, 1, 5, 10, 30)] == pytest.approx([1, 0.9, 0.5, 0, 0])


def test_silence_counts_only_while_work_was_given() -> None:
    trust = Trust(3.0)
    trust.heard = trust.level = True
    assert trust.confidence(1e6, 0, 0.0) == 1.0
    trust.expect(1e6)
    trust.expect(1e6 + 2.9)  # more work does not prolong the patience
    assert trust.confidence(1e6 + 3.0, 0, 0.0) == 1.0
    assert trust.confidence(1e6 + 3.1, 0, 0.0) == 0.0
    trust.alive()
    assert trust.confidence(2e6, 0, 0.0) == 1.0
