from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_endpoint, make_endpoints, make_request, make_state
from tests.framework.stubs import MandatoryFilter, StubCost, StubFilter, StubPicker, StubScorer, Witness, slots

from pointsman.api.endpoint import Endpoint
from pointsman.api.result import ProfileRunResult
from pointsman.framework.profile import MAX_TARGETS, TIMED_SHARE, SchedulingProfile, WeightedScorer

PODS = make_endpoints(3)


class Bench:
    """A profile with its witness."""

    def __init__(
        self,
        *scorers: StubScorer | StubCost | WeightedScorer,
        filters: Sequence[StubFilter] = (),
        picker: StubPicker | None = None,
    ) -> None:
        self.seen = Witness()
        weighted = [s if isinstance(s, WeightedScorer) else WeightedScorer(s) for s in scorers]
        self.profile = SchedulingProfile("p", filters, weighted, picker or StubPicker(), self.seen)

    def run(self, pods: Sequence[Endpoint] = PODS, deadline: float = math.inf) -> ProfileRunResult:
        return self.profile.run(make_request(), pods, make_state(), deadline)


def totals(result: ProfileRunResult) -> list[float]:
    return [scored.score for scored in result.candidates]


class TestScores:
    @pytest.mark.parametrize(
        ("answer", "weight", "expected"),
        [
            ([0.0, 0.5, 1.0], 1.0, [0.0, 0.5, 1.0]),
            ([-1.0, 2.0, 1e300], 1.0, [0.0, 1.0, 1.0]),
            ([0.0, 0.5, 1.0], 100.0, [0.0, 50.0, 100.0]),
            ([0.0, 0.5, 1.0], 0.0, [0.0, 0.0, 0.0]),
            ((0, 1, True), 2.0, [0.0, 2.0, 2.0]),
        ],
    )
    def test_clamped_then_weighted(self, answer: Any, weight: float, expected: list[float]) -> None:
        bench = Bench(WeightedScorer(StubScorer(answer), weight))
        result = bench.run()
        assert totals(result) == expected
        assert result.terms[0].values == tuple(expected)
        assert result.unit == "score"
        assert bench.seen.failed == []

    def test_terms_sum_to_totals(self) -> None:
        result = Bench(
            WeightedScorer(StubScorer([0.1, 0.2, 0.3], "a"), 100), WeightedScorer(StubScorer([1, 0, 0.5], "b"), 50)
        ).run()
        assert [terms.plugin for terms in result.terms] == ["a", "b"]
        assert totals(result) == [10 + 50, 20 + 0, 30 + 25]
        assert slots(result.targets) == [0, 2, 1]

    def test_no_scorer_means_no_difference(self) -> None:
        result = Bench().run()
        assert totals(result) == [0.0, 0.0, 0.0]
        assert (result.terms, result.fallback, slots(result.targets)) == ((), None, [0, 1, 2])

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=8))
    def test_whatever_is_finite_ends_between_0_and_the_weight(self, values: list[float]) -> None:
        result = Bench(WeightedScorer(StubScorer(values), 3.0)).run(make_endpoints(len(values)))
        assert all(0 <= total <= 3 for total in totals(result))


class TestCosts:
    def test_negated_so_that_the_cheapest_is_first(self) -> None:
        result = Bench(WeightedScorer(StubCost([30.0, 10.0, 20.0]), 2.0)).run()
        assert totals(result) == [-60.0, -20.0, -40.0]
        assert slots(result.targets) == [1, 2, 0]
        assert result.unit == "ms"

    def test_a_negative_cost_counts_as_none_and_a_large_one_in_full(self) -> None:
        assert totals(Bench(StubCost([-5.0, 0.0, 1e6])).run()) == [0.0, 0.0, -1e6]


class TestRefusedAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            [0.1, math.nan, 0.2],
            [math.inf, 0.1, 0.2],
            [-math.inf, 0.1, 0.2],
            [math.inf, -math.inf, 0.0],
            [],
            [0.1, 0.2],
            [0.1, 0.2, 0.3, 0.4],
            None,
            7,
            ["a", "b", "c"],
            [None, None, None],
            [1j, 0, 0],
            [Decimal("NaN"), 0, 0],
            {"a": 1, "b": 2, "c": 3},
            (value for value in (0.1, 0.2, 0.3)),
            [10**400, 0, 0],
        ],
        ids=lambda answer: repr(answer)[:30] if not hasattr(answer, "send") else "generator",
    )
    @pytest.mark.parametrize("kind", [StubScorer, StubCost])
    def test_its_say_is_left_out_and_counted(self, kind: Any, answer: Any) -> None:
        bad = kind(answer, "bad")
        good = kind([0.5, 0.25, 0.75], "good")
        bench = Bench(bad, good)
        result = bench.run()
        assert [terms.plugin for terms in result.terms] == ["good"]
        assert slots(result.targets) == ([2, 0, 1] if kind is StubScorer else [1, 0, 2])
        assert bench.seen.failed == [("bad", "score")]

    def test_an_exception_costs_only_that_plugins_say(self) -> None:
        bench = Bench(StubScorer(lambda pods: 1 / 0, "bad"), StubScorer([0, 1, 0], "good"))
        result = bench.run()
        assert slots(result.targets)[0] == 1
        assert bench.seen.failed == [("bad", "score")]
        assert isinstance(bench.seen.errors[0], ZeroDivisionError)

    def test_all_scorers_failing_still_answers(self) -> None:
        bench = Bench(StubScorer([], "a"), StubScorer(None, "b"))
        assert slots(bench.run().targets) == [0, 1, 2]
        assert bench.seen.failed == [("a", "score"), ("b", "score")]


class TestFilters:
    def test_drops_are_recorded_by_filter(self) -> None:
        first = StubFilter(lambda pods: pods[1:], "first")
        second = StubFilter(lambda pods: [pods[0]], "second")
        idle = StubFilter(list, "idle")
        result = Bench(filters=[first, idle, second]).run()
        assert [(drop.plugin, drop.endpoints) for drop in result.drops] == [
            ("first", ("default/pod-0",)),
            ("second", ("default/pod-2",)),
        ]
        assert slots([scored.endpoint for scored in result.candidates]) == [1]

    def test_mandatory_filters_run_first(self) -> None:
        order: list[str] = []

        def note(name: str, keep: int) -> Any:
            def answer(pods: Sequence[Endpoint]) -> Sequence[Endpoint]:
                order.append(name)
                return pods[:keep]

            return answer

        filters = [StubFilter(note("busy", 0), "busy"), MandatoryFilter(note("model", 2), "model")]
        result = Bench(filters=filters).run()
        assert order == ["model", "busy"]
        assert [(drop.plugin, len(drop.endpoints)) for drop in result.drops] == [("model", 1), ("busy", 2)]

    def test_drained_ends_the_run(self) -> None:
        late = StubFilter(lambda pods: pytest.fail("must not be asked about nothing"), "late")
        bench = Bench(
            StubScorer(lambda pods: pytest.fail("nothing to score")), filters=[StubFilter(lambda pods: []), late]
        )
        result = bench.run()
        assert (result.targets, result.candidates, result.fallback) == ((), (), "filters-drained")
        assert bench.seen.failed == []

    @pytest.mark.parametrize(
        ("answer", "kept"),
        [
            (lambda pods: [pods[0], make_endpoint(9)], [0]),
            (lambda pods: [make_endpoint(9), pods[1], pods[2]], [1, 2]),
            (lambda pods: [pods[0], pods[0], pods[1]], [0, 1]),
            (lambda pods: [*pods, make_endpoint(9)], [0, 1, 2]),
            (lambda pods: [make_endpoint(9)], []),
        ],
        ids=["invents", "invents-as-many", "repeats-as-many", "adds", "invents-only"],
    )
    def test_endpoints_cannot_be_added(self, answer: Any, kept: list[int]) -> None:
        bench = Bench(filters=[StubFilter(answer, "bad")])
        result = bench.run()
        assert slots([scored.endpoint for scored in result.candidates]) == kept
        assert bench.seen.failed == [("bad", "filter")]
        assert sum(len(drop.endpoints) for drop in result.drops) == 3 - len(kept)

    @pytest.mark.parametrize(
        "answer",
        [lambda pods: 1 / 0, lambda pods: None, lambda pods: (pod for pod in pods), lambda pods: ["x"], lambda pods: 3],
        ids=["raises", "none", "generator", "strings", "number"],
    )
    def test_no_answer_drops_nothing_and_is_counted(self, answer: Any) -> None:
        bench = Bench(filters=[StubFilter(answer, "bad"), StubFilter(lambda pods: pods[:1], "good")])
        result = bench.run()
        assert [drop.plugin for drop in result.drops] == ["good"]
        assert bench.seen.failed == [("bad", "filter")]

    @pytest.mark.parametrize("answer", [lambda pods: pods, list, tuple, lambda pods: pods[::-1]])
    def test_keeping_all_is_no_drop_in_whatever_order(self, answer: Any) -> None:
        bench = Bench(filters=[StubFilter(answer)])
        result = bench.run()
        assert (result.drops, bench.seen.failed) == ((), [])
        assert slots([scored.endpoint for scored in result.candidates]) == [0, 1, 2]


class TestPicker:
    @pytest.mark.parametrize(
        "answer",
        [
            lambda candidates: 1 / 0,
            lambda candidates: None,
            lambda candidates: [],
            lambda candidates: [candidates[0].endpoint],
            iter,
            lambda candidates: [type(candidates[0])(make_endpoint(9), 1.0)],
            lambda candidates: [candidates[0], candidates[0]],
        ],
        ids=["raises", "none", "nothing", "endpoint", "iterator", "stranger", "repeats"],
    )
    def test_misbehaving_falls_back_to_the_best_score(self, answer: Any) -> None:
        bench = Bench(StubScorer([0.2, 0.9, 0.5]), picker=StubPicker(answer, "bad"))
        result = bench.run()
        assert slots(result.targets) == [1, 2, 0]
        assert result.fallback == "picker-error"
        assert bench.seen.failed == [("bad", "pick")]

    def test_its_order_is_kept_and_cut(self) -> None:
        bench = Bench(picker=StubPicker(lambda candidates: candidates[::-1]))
        result = bench.run(make_endpoints(9))
        assert slots(result.targets) == [8, 7, 6]
        assert len(result.targets) == MAX_TARGETS
        assert len(result.candidates) == 9

    def test_one_target_is_enough(self) -> None:
        result = Bench(picker=StubPicker(lambda candidates: (candidates[2],))).run()
        assert (slots(result.targets), result.fallback) == ([2], None)


class TestDeadline:
    def test_passed_leaves_scorers_out_and_still_answers(self) -> None:
        bench = Bench(StubScorer(lambda pods: pytest.fail("too late to be asked")))
        result = bench.run(deadline=perf_counter() - 1)
        assert slots(result.targets) == [0, 1, 2]
        assert result.terms == ()
        assert bench.seen.degradations == ["budget"]

    def test_filters_and_picker_run_whatever_the_time(self) -> None:
        bench = Bench(StubScorer([0.0]), filters=[StubFilter(lambda pods: pods[2:])])
        assert slots(bench.run(deadline=-math.inf).targets) == [2]

    def test_scorers_before_it_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        time = [0.0]
        monkeypatch.setattr("pointsman.framework.profile.perf_counter", lambda: time[0])

        def slow(pods: Sequence[Endpoint]) -> list[float]:
            time[0] += 1.0
            return [0.0, 1.0, 0.0]

        bench = Bench(StubScorer(slow, "a"), StubScorer(slow, "b"), StubScorer(slow, "c"))
        result = bench.run(deadline=1.5)
        assert [terms.plugin for terms in result.terms] == ["a", "b"]
        assert bench.seen.degradations == ["budget"]


def test_one_run_in_sixteen_is_timed() -> None:
    bench = Bench(StubScorer([0, 0, 0], "s"), filters=[StubFilter(list, "f")], picker=StubPicker(name="p"))
    for _ in range(TIMED_SHARE + 1):
        bench.run()
    assert bench.seen.timed == [("f", "filter"), ("s", "score"), ("p", "pick")] * 2


def test_a_failing_plugin_is_timed_too() -> None:
    bench = Bench(StubScorer(lambda pods: 1 / 0, "bad"))
    bench.run()
    assert ("bad", "score") in bench.seen.timed
