"""The watchdog without a timer: ticks come when a test says so."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import pytest
from tests.framework.stubs import Witness

from pointsman.errors import PluginBenchedError, PluginTimeoutError
from pointsman.framework.watchdog import BENCH_SECONDS, IDLE_TICKS, STRIKES, Watchdog, report


class Dog(Watchdog):
    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now)
        self.timer: list[str] = []
        self.use_timer(lambda: self.timer.append("start"), lambda: self.timer.append("stop"))

    def busy(self, *ticks: float) -> Callable[[], str]:
        """A plugin's call during which ticks come at these times."""

        def call() -> str:
            for self.now in ticks:
                self.tick()
            return "done"

        return call


@pytest.fixture
def dog() -> Dog:
    return Dog()


def test_calls_return_what_the_plugin_does(dog: Dog) -> None:
    assert dog.call("p", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        dog.call("p", divmod, 7, 0)
    dog.now = math.inf
    dog.tick()
    dog.tick()


def test_a_call_is_cut_at_the_second_tick_behind_the_deadline(dog: Dog) -> None:
    dog.begin(10.0)
    assert dog.call("p", dog.busy(9.0, 9.9, 10.0)) == "done"
    assert dog.call("p", dog.busy(10.1)) == "done"
    dog.begin(11.0)
    with pytest.raises(PluginTimeoutError, match="cut off 220 ms"):
        dog.call("p", dog.busy(11.2, 11.22))
    dog.tick()
    dog.tick()


def test_a_cut_that_is_lost_is_made_once_more_and_never_after_the_call(dog: Dog) -> None:
    def swallows() -> str:
        dog.now = 11.2
        dog.tick()
        with contextlib.suppress(PluginTimeoutError):  # as a destructor or a collector's callback would
            dog.tick()
        dog.core(dog.tick)  # not in the picker's own code
        dog.tick()
        return "went on"

    dog.begin(11.0)
    with pytest.raises(PluginTimeoutError, match="once more"):
        dog.call("p", swallows)
    dog.tick()
    dog.tick()
    dog.begin(12.0)
    assert dog.call("p", dog.busy(11.5)) == "done"


def test_an_innocent_plugin_is_not_cut_for_what_another_used_up(dog: Dog) -> None:
    dog.begin(1.0)
    dog.now = 5.0
    for name in ("a", "b", "c", "a"):
        assert dog.call(name, dog.busy(5.0)) == "done"


def test_calls_of_different_decisions_are_not_confused(dog: Dog) -> None:
    for deadline in (1.0, 1.02, 1.04):
        dog.begin(deadline)
        assert dog.call("p", dog.busy(5.0)) == "done"


def test_the_pickers_own_code_is_never_cut(dog: Dog) -> None:
    dog.begin(1.0)

    def handler() -> str:
        return dog.core(dog.busy(5.0, 5.1, 5.2)) + dog.core(lambda: dog.call("inner", dog.busy(5.3)))

    assert dog.call("handler", handler) == "donedone"

    def late_handler() -> None:
        dog.core(dog.busy(5.0))
        dog.busy(5.1, 5.2)()

    with pytest.raises(PluginTimeoutError):
        dog.call("handler", late_handler)


def time_out(dog: Dog, plugin: str = "p") -> None:
    dog.begin(dog.now)
    with pytest.raises(PluginTimeoutError):
        dog.call(plugin, dog.busy(dog.now + 1, dog.now + 2))


def test_a_plugin_is_benched_after_time_outs_in_a_row(dog: Dog) -> None:
    for _ in range(STRIKES - 1):
        time_out(dog)
    assert dog.call("p", lambda: "fine") == "fine"
    for _ in range(STRIKES):
        time_out(dog)
    since = dog.now
    for dog.now in (since, since + BENCH_SECONDS - 0.1):
        with pytest.raises(PluginBenchedError):
            dog.call("p", lambda: "not called")
        assert dog.call("other", lambda: "fine") == "fine"
    dog.now = since + BENCH_SECONDS
    assert dog.call("p", lambda: "fine") == "fine"
    time_out(dog)
    assert dog.call("p", lambda: "one time-out is no reason") == "one time-out is no reason"


def test_the_timer_runs_while_there_is_something_to_watch(dog: Dog) -> None:
    assert dog.timer == []
    dog.begin(1.0)
    dog.begin(2.0)
    assert dog.timer == ["start"]
    for _ in range(IDLE_TICKS - 1):
        dog.tick()
    dog.begin(3.0)
    for _ in range(IDLE_TICKS):
        assert dog.timer == ["start"]
        dog.tick()
    assert dog.timer == ["start", "stop"]
    dog.tick()
    dog.begin(4.0)
    assert dog.timer == ["start", "stop", "start"]


def test_reports() -> None:
    seen = Witness()
    for error in (ValueError("x"), PluginTimeoutError("x"), PluginBenchedError("x")):
        report(seen, "p", "score", error)
    assert seen.failed == [("p", "score")] * 2
    assert seen.degradations == ["watchdog", "benched"]
