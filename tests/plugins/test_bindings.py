from __future__ import annotations

from pointsman.api.endpoint import EndpointId
from pointsman.clock import ManualClock
from pointsman.plugins._bindings import Bindings

A, B = EndpointId("default/a"), EndpointId("default/b")


def test_forgets_what_is_not_used() -> None:
    clock = ManualClock(0.0)
    bindings = Bindings(clock, ttl=10, most=100)
    bindings.bind("s", A)
    clock.advance(10)
    assert bindings.find("s") == A
    bindings.bind("s", A)  # used again
    clock.advance(10)
    assert bindings.find("s") == A
    clock.advance(0.1)
    assert bindings.find("s") is None
    bindings.bind("t", B)
    assert len(bindings) == 1, "the expired one is gone"


def test_is_bounded_and_drops_the_longest_unused() -> None:
    bindings = Bindings(ManualClock(0.0), ttl=10, most=2)
    for session in ("a", "b", "a", "c"):
        bindings.bind(session, A)
    assert [session for session in "abc" if bindings.find(session)] == ["a", "c"]


def test_long_names_are_told_apart() -> None:
    bindings = Bindings(ManualClock(0.0), ttl=10, most=10)
    bindings.bind("x" * 100_000 + "1", A)
    bindings.bind("x" * 100_000 + "2", B)
    assert bindings.find("x" * 100_000 + "1") == A
    assert bindings.find("x" * 100_000 + "2") == B
    assert bindings.find("\udcff" * 100) is None
