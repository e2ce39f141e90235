from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.builders import make_endpoints, make_request, make_state
from tests.framework.stubs import (
    MandatoryFilter,
    StubFilter,
    StubHandler,
    StubPicker,
    StubScorer,
    Witness,
    slots,
)

from pointsman.api.endpoint import Endpoint
from pointsman.api.result import ProfileRunResult, SchedulingResult
from pointsman.errors import BadRequestError, NoEndpointsError, SaturatedError
from pointsman.framework.keys import PEER_ENDPOINT_KEY
from pointsman.framework.plugin import Filter
from pointsman.framework.profile import SchedulingProfile, WeightedScorer
from pointsman.framework.scheduler import Fallback, Scheduler
from pointsman.framework.state import CycleState

PODS = make_endpoints(4)


def nobody(pods: Sequence[Endpoint]) -> Sequence[Endpoint]:
    return []


class Bench:
    """A scheduler over one profile, or several, with its witness."""

    def __init__(
        self,
        *filters: Filter[Any],
        handler: StubHandler | None = None,
        fallback: Fallback = "round-robin",
        profiles: Sequence[str] = ("default",),
        picker: StubPicker | None = None,
    ) -> None:
        self.seen = Witness()
        best = StubScorer(lambda pods: [pod.slot / 10 for pod in pods])
        built = {
            name: SchedulingProfile(name, filters, [WeightedScorer(best)], picker or StubPicker(), self.seen)
            for name in profiles
        }
        self.scheduler = Scheduler(built, handler or StubHandler(), self.seen, fallback)

    def schedule(self, pods: Sequence[Endpoint] = PODS) -> SchedulingResult:
        return self.scheduler.schedule(make_request(model="m", target_model="tm"), pods, make_state())


def test_the_profiles_pick_counts() -> None:
    bench = Bench()
    result = bench.schedule()
    assert (result.primary, slots(result.targets), result.chosen.slot) == ("default", [3, 2, 1], 3)
    assert (bench.seen.fallbacks, bench.seen.failed) == ([], [])


class TestDrained:
    def test_each_in_turn(self) -> None:
        bench = Bench(StubFilter(nobody, "busy"))
        results = [bench.schedule() for _ in range(5)]
        assert [slots(result.targets) for result in results] == [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2]]
        assert bench.seen.fallbacks == ["filters-drained"] * 5

    def test_the_result_says_so_and_keeps_what_was_dropped(self) -> None:
        run = Bench(StubFilter(nobody, "busy")).schedule().profiles["default"]
        assert run.fallback == "filters-drained"
        assert [(drop.plugin, len(drop.endpoints)) for drop in run.drops] == [("busy", 4)]

    def test_what_a_mandatory_filter_dropped_stays_out(self) -> None:
        bench = Bench(StubFilter(nobody, "busy"), MandatoryFilter(lambda pods: pods[2:], "model"))
        assert [slots(bench.schedule().targets) for _ in range(3)] == [[2, 3], [3, 2], [2, 3]]

    def test_one_usable_endpoint_gets_everything(self) -> None:
        bench = Bench(StubFilter(nobody))
        assert [slots(bench.schedule(PODS[:1]).targets) for _ in range(3)] == [[0]] * 3

    def test_refuse(self) -> None:
        bench = Bench(StubFilter(nobody), fallback="refuse")
        with pytest.raises(SaturatedError) as caught:
            bench.schedule()
        assert (caught.value.http_status, caught.value.drop_reason) == (429, "rejected-saturated")
        assert bench.seen.fallbacks == ["filters-drained"], "a scale-out signal all the same"

    @pytest.mark.parametrize("fallback", ["round-robin", "refuse"])
    @pytest.mark.parametrize("before", [False, True])
    def test_nobody_serves_the_model(self, fallback: Fallback, before: bool) -> None:
        model, busy = MandatoryFilter(nobody, "model"), StubFilter(lambda pods: pods[:1], "busy")
        bench = Bench(*([busy, model] if before else [model, busy]), fallback=fallback)
        with pytest.raises(NoEndpointsError, match="no endpoint serves model 'tm'") as caught:
            bench.schedule()
        assert (caught.value.http_status, caught.value.drop_reason) == (503, "rejected-no-endpoints")
        assert bench.seen.fallbacks == [], "more of the same would not help"


def run_second_then_raise(profiles: Sequence[str], run: Any) -> Any:
    run(profiles[1])
    raise RuntimeError("after the run")


class TestHandler:
    @pytest.mark.parametrize(
        "answer",
        [
            lambda profiles, run: 1 / 0,
            lambda profiles, run: None,
            lambda profiles, run: run(profiles[0]),
            lambda profiles, run: run("nope"),
            lambda profiles, run: SchedulingResult("nope", {}),
            lambda profiles, run: SchedulingResult("default", {"default": None}),  # type: ignore[dict-item]
        ],
        ids=["raises", "none", "run-result", "unknown-profile", "unknown-primary", "empty-result"],
    )
    def test_misbehaving_still_answers(self, answer: Any) -> None:
        bench = Bench(handler=StubHandler(answer, "bad"))
        result = bench.schedule()
        assert (result.primary, slots(result.targets)) == ("default", [3, 2, 1])
        assert bench.seen.failed == [("bad", "handle-profiles")]

    def test_a_profile_that_ran_is_not_run_again(self) -> None:
        bench = Bench(handler=StubHandler(run_second_then_raise), profiles=("one", "two"))
        result = bench.schedule()
        assert (result.primary, list(result.profiles)) == ("two", ["two"])

    def test_misbehaving_and_drained_falls_back(self) -> None:
        bench = Bench(StubFilter(nobody), handler=StubHandler(lambda profiles, run: 1 / 0))
        assert slots(bench.schedule().targets) == [0, 1, 2]
        assert bench.seen.fallbacks == ["filters-drained"]

    def test_a_made_up_empty_result_falls_back(self) -> None:
        made_up = SchedulingResult("x", {"x": ProfileRunResult("x", ())})
        bench = Bench(handler=StubHandler(lambda profiles, run: made_up))
        assert slots(bench.schedule().targets) == [0, 1, 2]

    def test_the_primary_of_several_counts(self) -> None:
        def both(profiles: Sequence[str], run: Any) -> SchedulingResult:
            return SchedulingResult("decode", {name: run(name) for name in profiles})

        bench = Bench(handler=StubHandler(both), profiles=("prefill", "decode"))
        result = bench.schedule()
        assert (result.primary, sorted(result.profiles)) == ("decode", ["decode", "prefill"])


def test_a_picker_error_is_counted_as_a_fallback() -> None:
    bench = Bench(picker=StubPicker(lambda candidates: []))
    assert slots(bench.schedule().targets) == [3, 2, 1]
    assert bench.seen.fallbacks == ["picker-error"]


def test_round_robin_of_last_resort() -> None:
    bench = Bench()
    results = [bench.scheduler.round_robin(PODS[:2], "why") for _ in range(3)]
    assert [slots(result.targets) for result in results] == [[0, 1], [1, 0], [0, 1]]
    assert [result.profiles[result.primary].fallback for result in results] == ["why"] * 3
    assert bench.seen.fallbacks == ["why"] * 3


def test_a_handler_may_refuse() -> None:
    def refuse(profiles: Sequence[str], run: Any) -> SchedulingResult:
        raise BadRequestError("not like this")

    bench = Bench(handler=StubHandler(refuse))
    with pytest.raises(BadRequestError, match="not like this"):
        bench.schedule()
    assert bench.seen.failed == []


def test_a_later_profile_sees_what_the_one_before_chose() -> None:
    seen: list[Endpoint | None] = []

    class Looking(StubFilter):
        def filter(self, request: Any, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
            seen.append(state.get(PEER_ENDPOINT_KEY))
            return endpoints

    handler = StubHandler(lambda profiles, run: SchedulingResult(profiles[0], {name: run(name) for name in profiles}))
    Bench(Looking(list), handler=handler, profiles=["one", "two"]).schedule()
    assert seen == [None, PODS[3]]


@pytest.mark.parametrize("profile", ["two", "three"])
def test_a_stage_needs_an_endpoint(profile: str) -> None:
    def stage(profiles: Sequence[str], run: Any) -> SchedulingResult:
        results = {"one": run("one"), "two": ProfileRunResult("two", ())}
        return SchedulingResult("one", results, {"prefill": profile})

    bench = Bench(handler=StubHandler(stage), profiles=["one", "two"])
    result = bench.schedule()
    assert (result.primary, result.prefiller) == ("one", None)
    assert bench.seen.failed == [("handler", "handle-profiles")]
