"""Plugins that answer what a test tells them to, and an observer that remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.builders import make_handle

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, SchedulingResult, ScoredEndpoint
from pointsman.framework.observer import Observer
from pointsman.framework.plugin import CostScorer, Filter, Params, Picker, ProfileHandler, Scorer
from pointsman.framework.state import CycleState

Run = Callable[[str], ProfileRunResult]


class Witness(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []
        self.errors: list[Exception] = []
        self.timed: list[tuple[str, str]] = []
        self.fallbacks: list[str] = []
        self.degradations: list[str] = []
        self.loaded: list[bool] = []

    def plugin_failed(self, plugin: str, point: str, error: Exception) -> None:
        self.failed.append((plugin, point))
        self.errors.append(error)

    def plugin_timed(self, plugin: str, point: str, seconds: float) -> None:
        assert seconds >= 0
        self.timed.append((plugin, point))

    def fell_back(self, reason: str) -> None:
        self.fallbacks.append(reason)

    def degraded(self, kind: str) -> None:
        self.degradations.append(kind)

    def config_loaded(self, ok: bool) -> None:
        self.loaded.append(ok)


class StubFilter(Filter[Params]):
    type = "stub-filter"

    def __init__(self, answer: Callable[[Sequence[Endpoint]], Any], name: str = "filter") -> None:
        super().__init__(Params(), make_handle(), name)
        self.answer = answer

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Any:
        return self.answer(endpoints)


class MandatoryFilter(StubFilter):
    type = "mandatory-filter"
    mandatory = True


class StubScorer(Scorer[Params]):
    type = "stub-scorer"

    def __init__(self, answer: Any, name: str = "scorer") -> None:
        super().__init__(Params(), make_handle(), name)
        self.answer = answer

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Any:
        return self.answer(endpoints) if callable(self.answer) else self.answer


class StubCost(CostScorer[Params]):
    type = "stub-cost"

    def __init__(self, answer: Any, name: str = "cost") -> None:
        super().__init__(Params(), make_handle(), name)
        self.answer = answer

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Any:
        return self.answer


class StubPicker(Picker[Params]):
    """The best first, unless told otherwise."""

    type = "stub-picker"

    def __init__(self, answer: Callable[[Sequence[ScoredEndpoint]], Any] | None = None, name: str = "picker") -> None:
        super().__init__(Params(), make_handle(), name)
        self.answer = answer or (lambda candidates: sorted(candidates, key=lambda scored: -scored.score))

    def pick(self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState) -> Any:
        return self.answer(candidates)


class StubHandler(ProfileHandler[Params]):
    """Runs the first profile, unless told otherwise."""

    type = "stub-handler"

    def __init__(self, answer: Callable[[Sequence[str], Run], Any] | None = None, name: str = "handler") -> None:
        super().__init__(Params(), make_handle(), name)
        self.answer = answer or _first

    def handle_profiles(self, request: InferenceRequest, profiles: Sequence[str], run: Run, state: CycleState) -> Any:
        return self.answer(profiles, run)


def _first(profiles: Sequence[str], run: Run) -> SchedulingResult:
    return SchedulingResult(profiles[0], {profiles[0]: run(profiles[0])})


def slots(endpoints: Sequence[Endpoint]) -> list[int]:
    """The endpoints' slots, which are easier to read than ids."""
    return [endpoint.slot for endpoint in endpoints]
