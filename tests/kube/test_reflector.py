from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.errors import ConfigError
from pointsman.kube.reflector import MAX_GRAVES, Reflector, WatchEvent

Refusals = list[tuple[str, str]]


class _Named(msgspec.Struct, frozen=True):
    payload: int


def _decode(raw: bytes) -> int:
    value = msgspec.json.decode(raw, type=_Named).payload
    if value < 0:
        raise ConfigError("below 0", field="payload")
    return value


def _item(name: str, version: int | str, payload: Any = 0, uid: str = "u") -> bytes:
    meta = {"name": name, "namespace": "ns", "resourceVersion": str(version), "uid": uid}
    return msgspec.json.encode({"metadata": meta, "payload": payload})


def _event(kind: str, *item: Any, **more: Any) -> WatchEvent:
    return WatchEvent(kind, msgspec.Raw(_item(*item, **more)))


def _reflector() -> tuple[Reflector[int], Refusals]:
    refused: Refusals = []
    return Reflector(_decode, lambda key, why: refused.append((key, why))), refused


def test_a_list_then_events() -> None:
    reflector, _ = _reflector()
    assert not reflector.synced
    assert reflector.replace([_item("a", 3, 1), _item("b", 4, 2)], "5")
    assert reflector.synced
    assert reflector.apply(_event("MODIFIED", "a", 6, 10))
    assert reflector.apply(_event("ADDED", "c", 7, 3))
    assert reflector.apply(_event("DELETED", "b", 8, 2))
    assert reflector.objects == {"ns/a": 10, "ns/c": 3}
    assert reflector.version == "8"
    assert not reflector.apply(_event("MODIFIED", "a", 9, 10)), "nothing that we look at has changed"


def test_an_empty_first_list_is_news_and_the_second_is_not() -> None:
    reflector, _ = _reflector()
    assert reflector.replace([], "5")
    assert not reflector.replace([], "6")


def test_what_a_list_does_not_hold_is_gone_even_when_the_server_went_back_in_time() -> None:
    reflector, _ = _reflector()
    reflector.replace([_item("a", 100, 1), _item("b", 101, 2)], "200")
    assert reflector.replace([_item("a", 50, 0)], "60")  # restored from a backup
    assert reflector.objects == {"ns/a": 0}
    assert reflector.apply(_event("ADDED", "b", 61, 5))
    assert reflector.objects == {"ns/a": 0, "ns/b": 5}


def test_late_events_change_nothing() -> None:
    reflector, _ = _reflector()
    reflector.replace([_item("a", 3, 1)], "10")
    for event in (
        _event("MODIFIED", "a", 2, 99),
        _event("DELETED", "a", 2, 99),
        _event("ADDED", "gone-before-the-list", 9, 99),
    ):
        assert not reflector.apply(event)
    reflector.apply(_event("DELETED", "a", 12, 1))
    assert not reflector.apply(_event("MODIFIED", "a", 11, 99)), "it must not come back"
    assert reflector.objects == {}
    assert reflector.version == "12"
    assert reflector.apply(_event("ADDED", "a", 13, 4, uid="v")), "another one of that name may"


def test_versions_that_are_no_numbers_count_by_arrival() -> None:
    reflector, _ = _reflector()
    reflector.replace([_item("a", "x1", 1)], "x2")
    assert reflector.apply(_event("MODIFIED", "a", "x0", 2))
    assert reflector.objects == {"ns/a": 2}
    assert reflector.apply(_event("ADDED", "a", "y0", 3, uid="younger"))
    assert not reflector.apply(_event("DELETED", "a", "x9", 2, uid="older"))
    assert reflector.objects == {"ns/a": 3}
    assert reflector.apply(_event("DELETED", "a", "x9", 2, uid="younger"))
    assert reflector.version == "x9"


def test_a_bad_object_keeps_its_last_good_form() -> None:
    reflector, refused = _reflector()
    reflector.replace([_item("a", 1, 1), _item("b", 1, "text"), b'{"metadata": {}}'], "2")
    assert reflector.objects == {"ns/a": 1}
    assert [key for key, _ in refused] == ["ns/b", "?"]
    assert reflector.refused == {"ns/b"}
    assert not reflector.apply(_event("MODIFIED", "a", 3, -1))
    assert reflector.objects == {"ns/a": 1}
    assert reflector.refused == {"ns/a", "ns/b"}
    reflector.replace([_item("a", 3, -1)], "4")
    assert reflector.objects == {"ns/a": 1}
    assert reflector.apply(_event("MODIFIED", "a", 5, 7))
    assert reflector.refused == frozenset()
    # another object of the same name has no good form to keep
    reflector.replace([_item("a", 6, -1, uid="another")], "7")
    assert reflector.objects == {}


def test_bookmarks_and_unknown_events() -> None:
    reflector, refused = _reflector()
    reflector.replace([], "5")
    bookmark = WatchEvent("BOOKMARK", msgspec.Raw(b'{"metadata": {"resourceVersion": "50"}}'))
    assert not reflector.apply(bookmark)
    assert reflector.version == "50"
    assert not reflector.apply(WatchEvent("BOOKMARK", msgspec.Raw(b"[]")))
    assert not reflector.apply(WatchEvent("BOOKMARK", msgspec.Raw(b'{"metadata": {"resourceVersion": "40"}}')))
    assert not reflector.apply(_event("RENAMED", "a", 51, 1))
    assert reflector.objects == {}
    assert reflector.version == "51"
    assert not refused


def test_memory_of_deleted_objects_is_bounded() -> None:
    reflector, _ = _reflector()
    reflector.replace([], "1")
    for number in range(MAX_GRAVES + 10):
        reflector.apply(_event("DELETED", f"o{number}", number + 2))
    assert len(reflector._graves) == MAX_GRAVES


class _Step(msgspec.Struct, frozen=True):
    kind: str
    name: str
    version: int
    payload: int


def _history(choices: Sequence[tuple[str, bool]]) -> list[_Step]:
    """What really happened: objects made, changed and deleted, one version each."""
    alive: set[str] = set()
    steps = []
    for number, (name, delete) in enumerate(choices):
        version = number + 2
        if name in alive and delete:
            alive.discard(name)
            steps.append(_Step("DELETED", name, version, version))
        else:
            steps.append(_Step("MODIFIED" if name in alive else "ADDED", name, version, version))
            alive.add(name)
    return steps


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=25), st.data())
def test_any_order_and_any_repetition_end_in_the_same_set(choices: list[tuple[str, bool]], data: st.DataObject) -> None:
    steps = _history(choices)
    truth: dict[str, int] = {}
    for step in steps:
        if step.kind == "DELETED":
            truth.pop(f"ns/{step.name}", None)
        else:
            truth[f"ns/{step.name}"] = step.payload
    arrivals = data.draw(
        st.permutations(steps + data.draw(st.lists(st.sampled_from(steps), max_size=8) if steps else st.just([])))
    )
    reflector, _ = _reflector()
    reflector.replace([], "1")
    for step in arrivals:
        reflector.apply(_event(step.kind, step.name, step.version, step.payload))
    assert reflector.objects == truth
    assert reflector.version == str(len(steps) + 1)
