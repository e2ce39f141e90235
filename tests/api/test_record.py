from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint

from pointsman.api.record import DecisionRecord
from pointsman.api.result import Drop, ProfileRunResult, SchedulingResult, ScoredEndpoint, Terms


def make_record(*totals: float, **fields: Any) -> DecisionRecord:
    pods = [make_endpoint(slot, updated=100.0 - slot) for slot in range(len(totals))]
    run = ProfileRunResult(
        "p",
        tuple(pods[:1]),
        candidates=tuple(map(ScoredEndpoint, pods, totals)),
        terms=(Terms("a", tuple(totals)), Terms("b", (0.0,) * len(totals))),
        drops=(Drop("queue-depth", (make_endpoint(8).id, make_endpoint(9).id)),),
    )
    defaults: dict[str, Any] = {
        "request_id": "r1",
        "time": 1.0,
        "model": "m",
        "prompt_tokens": 7,
        "profile": "p",
        "unit": "score",
        "chosen": "default/pod-0",
        "hostport": "10.0.0.0:8000",
        "destination": "10.0.0.0:8000",
        "clock": 100.0,
        "result": SchedulingResult("p", {"p": run, "other": ProfileRunResult("other", ())}),
    }
    return DecisionRecord(**(defaults | fields))


def test_candidates_best_first_with_their_own_terms() -> None:
    rows = make_record(1.0, 3.0, 2.0).candidates()
    assert [row.endpoint for row in rows] == ["default/pod-1", "default/pod-2", "default/pod-0"]
    assert [row.terms for row in rows] == [{"a": 3.0, "b": 0.0}, {"a": 2.0, "b": 0.0}, {"a": 1.0, "b": 0.0}]
    assert rows[0].hostport == "10.0.0.1:8000"
    assert [row.metrics_age_ms for row in rows] == [1000.0, 2000.0, 0.0]


def test_never_scraped_has_no_age() -> None:
    run = ProfileRunResult("p", (), candidates=(ScoredEndpoint(make_endpoint(), 0.0),))
    (row,) = make_record(result=SchedulingResult("p", {"p": run})).candidates()
    assert row.metrics_age_ms is None


@pytest.mark.parametrize(
    ("totals", "ties", "margin"),
    [((), 0, None), ((5.0,), 1, None), ((5.0, 3.0), 1, 2.0), ((5.0, 5.0, 1.0), 2, 0.0), ((-12.0, -40.0), 1, 28.0)],
)
def test_ties_and_margin(totals: tuple[float, ...], ties: int, margin: float | None) -> None:
    record = make_record(*totals)
    assert (record.ties(), record.margin()) == (ties, margin)


def test_dropped_by_filter() -> None:
    assert make_record(1.0).dropped() == {"queue-depth": ["default/pod-8", "default/pod-9"]}


def test_without_a_result_there_is_nothing_to_tell() -> None:
    record = make_record(result=None)
    assert (record.candidates(), record.dropped(), record.ties(), record.margin()) == ([], {}, 0, None)
    assert record.view()["candidates"] == []


def test_view_is_json_and_shows_every_field_but_the_result() -> None:
    record = make_record(1.0, 2.0, status=200, ttft_ms=12.5)
    view = record.view()
    fields = set(record.__struct_fields__) - {"result"}
    assert set(view) == fields | {"ties", "margin", "dropped", "candidates", "stages"}
    again = msgspec.json.decode(msgspec.json.encode(view))
    assert again == view
    assert (again["status"], again["ttft_ms"], again["candidates"][0]["score"]) == (200, 12.5, 2.0)


def test_view_shows_the_outcome_filled_in_later() -> None:
    record = make_record(1.0)
    assert record.view()["cause"] is None
    record.cause, record.output_tokens = "complete", 3
    assert (record.view()["cause"], record.view()["output_tokens"]) == ("complete", 3)
