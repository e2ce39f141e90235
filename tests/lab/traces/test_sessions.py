"""Traces of sessions, closed and open."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lab.traces.test_replay import common, requests
from tests.lab.traces.trace_builders import AIPERF, CONTENT, lines_of, write

from pointsman.errors import TraceError
from pointsman.lab.options import FleetOptions
from pointsman.lab.runner import simulate
from pointsman.lab.traces import open_trace
from pointsman.sim.tokens import answer_ids, answer_offset


def test_a_request_waits_for_the_answer_and_the_thinking(tmp_path: Path) -> None:
    workload = open_trace(write(tmp_path, CONTENT["agentic"]), speed=2)
    first, second = sorted(workload.requests(), key=lambda one: -len(one.tokens))
    assert 0 <= first.arrival < 450
    following = workload.follow(first, 1000.0)
    assert following is not None
    assert following.arrival == pytest.approx(1000 + 6.5 / 2)
    assert [len(one.tokens) for one in (first, second, following)] == [140, 70, 200]
    assert common(first, following) == 64
    assert common(first, second) == 0
    assert following.session == first.session != second.session
    assert workload.follow(following, 2000.0) is None


def test_open_loop_gives_the_same_prompts_at_recorded_times(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT["agentic"])
    closed = open_trace(path)
    first = max(closed.requests(), key=lambda one: len(one.tokens))
    following = closed.follow(first, 0.0)
    found = requests(path, loop="open")
    assert following is not None
    same = {one.id: one for one in found}
    assert same[first.id] == first
    assert same[following.id].tokens == following.tokens
    assert same[following.id].arrival - same[first.id].arrival == pytest.approx(8.0)
    assert [one.arrival for one in found] == sorted(one.arrival for one in found)


def test_a_conversation_grows_by_the_answer_and_what_is_new(tmp_path: Path) -> None:
    workload = open_trace(write(tmp_path, CONTENT["aiperf"]))
    alone, first = workload.requests()
    assert (alone.arrival, first.arrival) == (0.0, 1.0)
    following = workload.follow(first, 5.0)
    assert following is not None
    answer = answer_ids(answer_offset(first.tokens), 0, 10)
    assert following.tokens[:610] == first.tokens + answer
    assert len(following.tokens) == 660
    assert following.arrival == 7.5
    assert workload.follow(alone, 5.0) is None


def test_the_engines_find_the_answer_in_their_caches(tmp_path: Path) -> None:
    rows = simulate("precise", open_trace(write(tmp_path, CONTENT["aiperf"])), FleetOptions(pods=2)).rows
    assert [row.prompt_tokens for row in rows] == [5, 600, 660]
    assert rows[2].cached_tokens >= 608 - 16
    assert rows[2].arrival == pytest.approx(rows[1].end + 2.5)


def test_turns_with_times_come_then_but_not_before_the_answer(tmp_path: Path) -> None:
    turns = [{**AIPERF[0], "timestamp": 1000}, {"session_id": "s", "input_length": 5, "timestamp": 9000}]
    workload = open_trace(write(tmp_path, lines_of(turns)))
    (first,) = workload.requests()
    early, late = (workload.follow(first, now) for now in (3.0, 50.0))
    assert early is not None
    assert late is not None
    assert (first.arrival, early.arrival, late.arrival) == (0.0, 8.0, 50.0)


def test_open_loop_needs_times(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT["aiperf"])
    with pytest.raises(TraceError, match=rf"{path}:2: no time stamp .*--loop closed"):
        requests(path, loop="open")


def test_more_users_and_slices_are_of_sessions(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT["agentic"])
    found = requests(path, scale_users=20, starts_over=100.0)
    assert len(found) == 40
    assert [one.arrival for one in found] == sorted(one.arrival for one in found)
    assert max(one.arrival for one in found) < 100
    assert len({one.tokens.tobytes() for one in found}) == 40
    part = requests(path, scale_users=20, starts_over=100.0, slice=(50, 75))
    assert 0 < len(part) < 40
    assert all(0 <= one.arrival < 25 for one in part)
    with pytest.raises(TraceError, match="--slice"):
        requests(path, slice=(2000, 3000))


def test_thinking_between_spans_is_known_from_their_ends(tmp_path: Path) -> None:
    workload = open_trace(write(tmp_path, CONTENT["otel"]), loop="closed")
    first = next(iter(workload.requests()))
    following = workload.follow(first, 100.0)
    assert following is not None
    assert following.arrival == 103.0
    assert common(first, following) == 300
