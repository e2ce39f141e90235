from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.kube.election import Election, LeaseSpec, LeaseTiming, with_spec

WALL = 1_767_225_600.5


def test_a_lease_that_nobody_has_is_taken_and_kept() -> None:
    election = Election("me", LeaseTiming())
    election.observe(None, 0.0)
    wish = election.proposal(0.0, WALL)
    assert wish == LeaseSpec("me", 15, "2026-01-01T00:00:00.500000Z", "2026-01-01T00:00:00.500000Z", 0)
    assert not election.leading(0.0), "asking is not having"
    election.written(wish, 0.0)
    assert election.leading(9.9)
    assert not election.leading(10.0), "well before others may think that the lease has run out"
    election.observe(wish, 5.0)
    again = election.proposal(5.0, WALL + 5)
    assert again is not None
    assert (again.acquire_time, again.renew_time) == (wish.acquire_time, "2026-01-01T00:00:05.500000Z")
    assert again.lease_transitions == 0


def test_somebody_elses_is_left_alone_until_it_was_silent_for_long_enough() -> None:
    election = Election("me", LeaseTiming())
    theirs = LeaseSpec("them", 20, "x", "t0", 3)
    election.observe(theirs, 100.0)
    assert election.proposal(119.0, WALL) is None
    election.observe(msgspec.structs.replace(theirs, renew_time="t1"), 119.0)
    assert election.proposal(138.0, WALL) is None
    election.observe(msgspec.structs.replace(theirs, renew_time="t1"), 139.5)
    wish = election.proposal(139.5, WALL)
    assert wish is not None
    assert (wish.holder_identity, wish.lease_transitions) == ("me", 4)


@pytest.mark.parametrize("holder", ["", None])
def test_one_that_was_given_up_is_free_at_once(holder: str | None) -> None:
    election = Election("me", LeaseTiming())
    election.observe(LeaseSpec(holder, 1, "x", "y", 3), 100.0)
    assert election.proposal(100.0, WALL) is not None


def test_a_leader_whose_lease_was_taken_stops_at_once() -> None:
    election = Election("me", LeaseTiming())
    election.written(LeaseSpec("me", 15, "a", "b", 0), 0.0)
    election.observe(LeaseSpec("them", 15, "c", "d", 1), 1.0)
    assert not election.leading(1.0)
    assert election.release(1.0, WALL) is None


def test_a_leader_that_goes_gives_its_lease_up() -> None:
    election = Election("me", LeaseTiming())
    election.written(LeaseSpec("me", 15, "a", "b", 2), 0.0)
    gone = election.release(1.0, WALL)
    assert gone is not None
    assert (gone.holder_identity, gone.lease_duration_seconds, gone.lease_transitions) == ("", 1, 2)
    assert not election.leading(1.0)
    assert Election("me", LeaseTiming()).release(0.0, WALL) is None


def test_what_a_lease_holds_besides_stays() -> None:
    lease: dict[str, Any] = {"metadata": {"labels": {"a": "b"}}, "spec": {"strategy": "x", "holderIdentity": "old"}}
    changed = with_spec(lease, LeaseSpec("me", 15, "a", "b", 0))
    assert changed["metadata"] == lease["metadata"]
    assert changed["spec"]["strategy"] == "x"
    assert changed["spec"]["holderIdentity"] == "me"
    assert with_spec({}, LeaseSpec("me"))["spec"]["holderIdentity"] == "me"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.1, 12.0), st.booleans()), max_size=60))
def test_never_two_leaders(turns: list[tuple[int, float, bool]]) -> None:
    """Three candidates look in any order and at any times, and some of their writes are lost on the way back."""
    candidates = [Election(name, LeaseTiming()) for name in "abc"]
    stored: LeaseSpec | None = None
    now = 0.0
    for number, wait, heard in turns:
        now += wait
        assert sum(candidate.leading(now) for candidate in candidates) <= 1
        candidate = candidates[number]
        candidate.observe(stored, now)
        wish = candidate.proposal(now, WALL + now)
        if wish is not None:
            stored = wish
            if heard:
                candidate.written(wish, now)
        assert sum(candidate.leading(now) for candidate in candidates) <= 1
