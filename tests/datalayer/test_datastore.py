from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.endpoint import Endpoint, EndpointId, EndpointMetrics
from pointsman.clock import ManualClock
from pointsman.datalayer.datastore import DRAIN_LABEL, Changes, Datastore, EndpointSpec

A, B, C = EndpointId("default/a"), EndpointId("default/b"), EndpointId("default/c")


def spec(name: str, host: int = 1, **labels: str) -> EndpointSpec:
    return EndpointSpec(name=name, address=f"10.0.0.{host}", port=8000, labels=labels)


def store(*specs: EndpointSpec) -> Datastore:
    datastore = Datastore(ManualClock(5.0))
    datastore.set_endpoints(specs)
    return datastore


def test_empty() -> None:
    datastore = Datastore(ManualClock())
    assert datastore.snapshot() == datastore.all() == ()
    assert not datastore.set_endpoints([])
    assert datastore.get(A) is None
    assert datastore.health(A) is None


def test_diff() -> None:
    datastore = store(spec("a", 1), spec("b", 2), spec("c", 3))
    datastore.update_metrics(A, EndpointMetrics(waiting=7))
    datastore.set_health(A, False, "gone")
    changes = datastore.set_endpoints([spec("d", 4), spec("c", 33), spec("a", 1, role="decode")])
    assert [endpoint.id for endpoint in changes.added] == ["default/d", C]
    assert [endpoint.id for endpoint in changes.changed] == [A]
    assert [(endpoint.id, endpoint.address) for endpoint in changes.removed] == [(B, "10.0.0.2"), (C, "10.0.0.3")]
    kept = changes.changed[0]
    assert (kept.slot, kept.metrics.waiting, kept.healthy, kept.labels) == (0, 7, False, {"role": "decode"})
    assert [endpoint.id for endpoint in datastore.all()] == ["default/d", C, A], "the source's order"
    assert {endpoint.slot for endpoint in changes.added} == {3, 4}, "slots of the removed were still theirs"
    assert not datastore.set_endpoints([spec("d", 4), spec("c", 33), spec("a", 1, role="decode")])


def test_slots_are_reused_only_after_the_removed_callbacks() -> None:
    datastore = store(spec("a", 1), spec("b", 2))
    seen: list[tuple[int, set[int]]] = []

    def removed(endpoint: Endpoint) -> None:
        seen.append((endpoint.slot, {other.slot for other in datastore.all()}))

    datastore.on_removed(removed)
    datastore.set_endpoints([spec("b", 2), spec("c", 3)])
    assert seen == [(0, {1, 2})]
    datastore.set_endpoints([spec("b", 2), spec("c", 3), spec("d", 4)])
    assert {endpoint.id: endpoint.slot for endpoint in datastore.all()} == {B: 1, C: 2, "default/d": 0}


def test_snapshot_is_cached_and_holds_only_the_healthy() -> None:
    datastore = store(spec("a", 1), spec("b", 2))
    first = datastore.snapshot()
    assert datastore.snapshot() is first
    assert datastore.set_health(A, False, "no connection")
    assert [endpoint.id for endpoint in datastore.snapshot()] == [B]
    assert [endpoint.id for endpoint in first] == [A, B], "a snapshot never changes"
    assert datastore.set_health(B, False, "no connection")
    assert datastore.snapshot() == ()
    assert len(datastore.all()) == 2
    assert datastore.set_health(A, True, "back")
    assert [endpoint.id for endpoint in datastore.snapshot()] == [A]


def test_health_keeps_reason_and_time() -> None:
    clock = ManualClock(5.0)
    datastore = Datastore(clock)
    datastore.set_endpoints([spec("a")])
    assert datastore.health(A) == (True, "not probed yet", 5.0)
    clock.advance(1)
    assert not datastore.set_health(A, True, "read")
    assert datastore.health(A) == (True, "read", 5.0)
    assert datastore.set_health(A, False, "refused")
    assert datastore.health(A) == (False, "refused", 6.0)


def test_late_facts_about_the_gone_are_ignored() -> None:
    datastore = store()
    datastore.update_metrics(A, EndpointMetrics())
    assert not datastore.set_health(A, False, "late")
    assert datastore.all() == ()


def test_twins_are_refused_and_change_nothing() -> None:
    datastore = store(spec("a"))
    with pytest.raises(ValueError, match="same namespace and name"):
        datastore.set_endpoints([spec("b"), spec("b", 2)])
    assert [endpoint.id for endpoint in datastore.all()] == [A]


def test_a_failing_callback_does_not_silence_the_others() -> None:
    datastore = store(spec("a"), spec("b", 2))
    heard: list[str] = []

    def broken(endpoint: Endpoint) -> None:
        raise LookupError(endpoint.id)

    datastore.on_removed(broken)
    datastore.on_removed(lambda endpoint: heard.append(endpoint.id))
    datastore.on_changed(lambda changes: heard.append(f"{len(changes.removed)} removed"))
    with pytest.raises(ExceptionGroup):
        datastore.set_endpoints([])
    assert heard == [A, B, "2 removed"]
    datastore.set_endpoints([spec("c")])
    assert datastore.all()[0].slot == 0


def test_changed_is_told_only_when_something_changed() -> None:
    datastore = store(spec("a"))
    heard: list[Changes] = []
    datastore.on_changed(heard.append)
    datastore.set_endpoints([spec("a")])
    datastore.update_metrics(A, EndpointMetrics(waiting=1))
    datastore.set_health(A, False, "x")
    assert heard == []
    datastore.set_endpoints([spec("a", 1, x="y")])
    assert len(heard) == 1


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3), max_size=6), max_size=8))
def test_any_history_keeps_slots_small_unique_and_stable(history: list[dict[str, int]]) -> None:
    datastore = Datastore(ManualClock())
    before: dict[str, Endpoint] = {}
    for step in history:
        datastore.set_endpoints([spec(name, host) for name, host in step.items()])
        after = {endpoint.id: endpoint for endpoint in datastore.all()}
        slots = [endpoint.slot for endpoint in after.values()]
        assert len(set(slots)) == len(slots)
        assert all(slot < 12 for slot in slots), "at most six leave while six come"
        for key, old in before.items():
            if key in after and after[EndpointId(key)].address == old.address:
                assert after[EndpointId(key)].slot == old.slot
        before = {str(key): endpoint for key, endpoint in after.items()}


class TestDraining:
    def test_left_out_while_another_can_take_its_place(self) -> None:
        datastore = store(spec("a", 1, **{DRAIN_LABEL: "true"}), spec("b", 2))
        assert [endpoint.id for endpoint in datastore.snapshot()] == [B]
        assert [endpoint.id for endpoint in datastore.all()] == [A, B], "still known"
        assert datastore.draining(A)
        assert not datastore.draining(B)
        datastore.set_health(B, False, "down")
        assert [endpoint.id for endpoint in datastore.snapshot()] == [A], "better than nothing"
        datastore.set_health(A, False, "down")
        assert datastore.snapshot() == ()
        datastore.set_health(B, True, "up")
        assert [endpoint.id for endpoint in datastore.snapshot()] == [B]

    def test_only_true_drains_and_it_can_be_taken_back(self) -> None:
        datastore = store(spec("a", 1, **{DRAIN_LABEL: "false"}), spec("b", 2))
        assert len(datastore.snapshot()) == 2
        changes = datastore.set_endpoints([spec("a", 1, **{DRAIN_LABEL: "true"}), spec("b", 2)])
        assert [endpoint.id for endpoint in changes.changed] == [A]
        assert changes.changed[0].slot == 0, "the same endpoint, so that what is in flight stays counted"
        assert len(datastore.snapshot()) == 1
        datastore.set_endpoints([spec("a", 1), spec("b", 2)])
        assert len(datastore.snapshot()) == 2
        assert not datastore.draining(A)

    @pytest.mark.parametrize("label", ["model-id", "llm-d.ai/role"])
    def test_the_last_of_a_model_or_role_goes_on(self, label: str) -> None:
        datastore = store(
            spec("a", 1, **{DRAIN_LABEL: "true", label: "x"}),
            spec("b", 2, **{label: "y"}),
            spec("c", 3, **{DRAIN_LABEL: "true", label: "y"}),
        )
        assert [endpoint.id for endpoint in datastore.snapshot()] == [A, B]
