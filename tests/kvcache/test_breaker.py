"""The circuit breaker against a plain model of what it promises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pointsman.kvcache.breaker import Breaker

STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "fail", "succeed"]), st.floats(0, 1.5, allow_nan=False)), max_size=60
)


def test_opens_after_failures_in_a_row_and_lets_one_probe_through_a_second() -> None:
    breaker = Breaker(failures=3, span=0.0, pause=1.0)
    for _ in range(2):
        breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(0.0)
        assert breaker.enter(0.0)
    breaker.failed(0.5)
    assert breaker.is_open(1.4)
    assert not breaker.enter(1.4)
    assert not breaker.is_open(1.5)
    assert [breaker.enter(1.5), breaker.enter(1.5), breaker.enter(2.4), breaker.enter(2.5)] == [
        True,
        False,
        False,
        True,
    ]
    breaker.succeeded()
    assert breaker.enter(2.5)


def test_failures_that_come_together_are_one_event() -> None:
    breaker = Breaker(failures=3, span=0.25, pause=1.0)
    for _ in range(10):
        breaker.failed(7.0)
    assert breaker.enter(7.0)
    breaker.failed(7.2)
    assert breaker.enter(7.2)
    breaker.failed(7.25)
    assert not breaker.enter(8.2)
    breaker.succeeded()
    breaker.failed(8.2)
    assert breaker.enter(8.3)


@given(STEPS)
def test_while_open_there_is_a_pause_between_any_two(steps: list[tuple[str, float]]) -> None:
    breaker, now, failures, last = Breaker(failures=3, span=0.0, pause=1.0), 0.0, 0, float("-inf")
    for step, seconds in steps:
        now += seconds
        if step == "fail":
            breaker.failed(now)
            failures, last = failures + 1, now
        elif step == "succeed":
            breaker.succeeded()
            failures = 0
        else:
            is_open = breaker.is_open(now)
            let_in = breaker.enter(now)
            assert let_in is not is_open
            assert let_in is (failures < 3 or now >= last + 1.0)
            last = now if let_in else last
