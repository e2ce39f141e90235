"""Record ring: the newest N, found by id."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.record import DecisionRecord
from pointsman.observability.records import RecordRing


def record(request_id: str, tokens: int = 0) -> DecisionRecord:
    return DecisionRecord(
        request_id=request_id,
        time=0.0,
        model="m",
        prompt_tokens=tokens,
        profile="default",
        unit="score",
        chosen="default/pod-0",
        hostport="10.0.0.0:8000",
        destination="10.0.0.0:8000",
    )


@pytest.fixture
def ring() -> RecordRing:
    ring = RecordRing(3)
    for name in "abcde":
        ring.add(record(name))
    return ring


@pytest.mark.parametrize(("count", "names"), [(0, ""), (1, "e"), (2, "ed"), (3, "edc"), (99, "edc")])
def test_the_newest_come_first(ring: RecordRing, count: int, names: str) -> None:
    assert "".join(found.request_id for found in ring.last(count)) == names


def test_only_the_newest_are_found_by_id(ring: RecordRing) -> None:
    assert len(ring) == 3
    assert [name for name in "abcde" if ring.get(name) is not None] == ["c", "d", "e"]


def test_a_repeated_id_replaces_the_older_record_and_is_newest(ring: RecordRing) -> None:
    ring.add(record("c", tokens=9))
    assert [(found.request_id, found.prompt_tokens) for found in ring.last(9)] == [("c", 9), ("e", 0), ("d", 0)]
    assert len(ring) == 3


def test_an_empty_ring_answers() -> None:
    ring = RecordRing()
    assert (ring.last(5), ring.get("a"), len(ring)) == ([], None, 0)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 6))
def test_any_sequence_keeps_the_newest_distinct_ids(names: list[str], capacity: int) -> None:
    ring, model = RecordRing(capacity), deque[str](maxlen=capacity)
    for name in names:
        ring.add(record(name))
        if name in model:
            model.remove(name)
        model.appendleft(name)
    assert [found.request_id for found in ring.last(99)] == list(model)


def test_a_record_without_a_result_has_no_candidates() -> None:
    alone = record("a")
    assert (alone.candidates(), alone.dropped(), alone.ties(), alone.margin()) == ([], {}, 0, None)
    assert "result" not in alone.view()
