"""SchedulingProfile: filter → score → pick, and what happens when a plugin misbehaves.

A plugin that raises, answers with the wrong length or with numbers that are no numbers loses its say in this request
and is counted; the request goes on with what the others said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import add, is_
from time import perf_counter
from typing import Any, TypeVar, TypeVarTuple

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import Drop, ProfileRunResult, ScoredEndpoint, Terms, Unit
from pointsman.errors import PluginError
from pointsman.framework.observer import Observer
from pointsman.framework.plugin import CostScorer, Filter, Picker, Plugin, Scorer
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import Watchdog, report

MAX_TARGETS = 3
"""The chosen endpoint and at most two fallbacks for the proxy's retries."""

TIMED_SHARE = 16
"""Plugins are timed in one of so many runs: an observation costs 1.4 µs, five plugins would add a third to a pick."""

T = TypeVar("T")
Args = TypeVarTuple("Args")


class WeightedScorer(msgspec.Struct, frozen=True):
    """A Scorer or CostScorer with its weight in one profile."""

    plugin: Scorer[Any] | CostScorer[Any]
    weight: float = 1.0


class SchedulingProfile:
    """One way to choose: filters in order, scorers with weights, a picker."""

    def __init__(
        self,
        name: str,
        filters: Sequence[Filter[Any]],
        scorers: Sequence[WeightedScorer],
        picker: Picker[Any],
        observer: Observer,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.name = name
        # Mandatory filters first: what they drop must be known even when a later filter drains the rest.
        self.filters = tuple(sorted(filters, key=lambda plugin: not plugin.mandatory))
        self.scorers = tuple(scorers)
        self.picker = picker
        self.unit: Unit = "ms" if any(isinstance(s.plugin, CostScorer) for s in scorers) else "score"
        self._observer = observer
        self._watchdog = watchdog or Watchdog()
        self._runs = 0

    def run(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState, deadline: float = math.inf
    ) -> ProfileRunResult:
        """Run once. ``deadline`` is a ``perf_counter`` value after which scorers still to come are left out.

        Without a single endpoint left by the filters the result has no targets; the caller decides what follows.
        """
        self._runs += 1
        kept, drops = self._filter(request, endpoints, state)
        if not kept:
            return ProfileRunResult(self.name, (), drops=drops, unit=self.unit, fallback="filters-drained")
        totals, terms = self._score(request, kept, state, deadline)
        candidates = tuple(map(ScoredEndpoint, kept, totals))
        order, fallback = self._pick(request, candidates, state)
        targets = tuple(scored.endpoint for scored in order[:MAX_TARGETS])
        return ProfileRunResult(self.name, targets, candidates, terms, drops, self.unit, fallback)

    def _filter(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState
    ) -> tuple[Sequence[Endpoint], tuple[Drop, ...]]:
        drops: list[Drop] = []
        for plugin in self.filters:
            before = endpoints
            answer = self._call(plugin, "filter", _left, plugin, request, before, state)
            if answer is None:
                continue
            endpoints, honest = answer
            if not honest:
                error = PluginError("a filter may only leave endpoints out, not add or repeat them")
                self._observer.plugin_failed(plugin.name, "filter", error)
            if len(endpoints) < len(before):
                ids = {endpoint.id for endpoint in endpoints}
                drops.append(Drop(plugin.name, tuple(e.id for e in before if e.id not in ids)))
            if not endpoints:
                break
        return endpoints, tuple(drops)

    def _score(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState, deadline: float
    ) -> tuple[list[float], tuple[Terms, ...]]:
        totals = [0.0] * len(endpoints)
        terms: list[Terms] = []
        for scorer in self.scorers:
            if perf_counter() > deadline:
                self._observer.degraded("budget")
                break
            weighted = self._call(scorer.plugin, "score", _weighted, scorer, request, endpoints, state)
            if weighted is None:
                continue
            totals = list(map(add, totals, weighted))
            terms.append(Terms(scorer.plugin.name, weighted))
        return totals, tuple(terms)

    def _pick(
        self, request: InferenceRequest, candidates: tuple[ScoredEndpoint, ...], state: CycleState
    ) -> tuple[Sequence[ScoredEndpoint], str | None]:
        def checked() -> Sequence[ScoredEndpoint]:
            order = self.picker.pick(request, candidates, state)
            known = {scored.endpoint.id for scored in candidates}
            first = [scored.endpoint.id for scored in order[:MAX_TARGETS]]
            if not first or not known.issuperset(first) or len(set(first)) < len(first):
                raise PluginError("a picker must return at least one of the candidates, each once, and nothing else")
            return order

        order = self._call(self.picker, "pick", checked)
        if order is None:
            return sorted(candidates, key=lambda scored: -scored.score), "picker-error"
        return order, None

    def _call(self, plugin: Plugin[Any], point: str, call: Callable[[*Args], T], *args: *Args) -> T | None:
        """Run one plugin; None when it failed."""
        timed = self._runs % TIMED_SHARE == 1
        start = perf_counter() if timed else 0.0
        try:
            return self._watchdog.call(plugin.name, call, *args)
        except Exception as error:  # noqa: BLE001 - whatever a plugin does, the request goes on
            report(self._observer, plugin.name, point, error)
            return None
        finally:
            if timed:
                self._observer.plugin_timed(plugin.name, point, perf_counter() - start)


def _left(
    plugin: Filter[Any], request: InferenceRequest, before: Sequence[Endpoint], state: CycleState
) -> tuple[Sequence[Endpoint], bool]:
    """What one filter left of ``before``, in that order, and whether it answered with nothing else."""
    answer = plugin.filter(request, before, state)
    if len(answer) == len(before) and all(map(is_, answer, before)):
        return before, True
    ids = {endpoint.id for endpoint in answer}
    kept = [endpoint for endpoint in before if endpoint.id in ids]
    return kept, len(kept) == len(answer)


def _weighted(
    scorer: WeightedScorer, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState
) -> tuple[float, ...]:
    """One scorer's values, checked, clamped and weighted; costs are negated so that higher is always better."""
    plugin, weight = scorer.plugin, scorer.weight
    if isinstance(plugin, CostScorer):
        values = plugin.cost(request, endpoints, state)
        low, high, sign = 0.0, math.inf, -weight
    else:
        values = plugin.score(request, endpoints, state)
        low, high, sign = 0.0, 1.0, weight
    if len(values) != len(endpoints):
        raise PluginError(f"answered {len(values)} values for {len(endpoints)} endpoints")
    if not math.isfinite(sum(values)):
        raise PluginError("answered a value that is not a finite number")
    if min(values) < low or max(values) > high:
        values = [low if value < low else min(value, high) for value in values]
    # The added zero turns -0.0, which a cost of nothing would be, into 0.0 for whoever reads the record.
    return tuple([sign * value + 0.0 for value in values])
