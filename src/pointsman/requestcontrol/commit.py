"""What follows from a decision: reservations, everyone told, the record, and the exchange that lives until the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from random import Random
from typing import Protocol

import msgspec

from pointsman.api.endpoint import NO_LOAD, Endpoint
from pointsman.api.record import DecisionRecord
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RoutingDecision, SchedulingResult
from pointsman.clock import Clock
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import CostModel
from pointsman.framework.shadowing import Decided
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import report
from pointsman.latency.fit import FittingModel
from pointsman.requestcontrol.decision import decision_record
from pointsman.requestcontrol.exchange import Exchange
from pointsman.requestcontrol.fitting import Sighting
from pointsman.requestcontrol.hints import owned_headers
from pointsman.requestcontrol.ledger import Ledger, Reservation
from pointsman.requestcontrol.live import LiveExchange
from pointsman.requestcontrol.plugin_calls import answer_headers, request_headers

REQUEST_ID = "x-request-id"


class EndpointSource(Protocol):
    """Where candidates come from."""

    def snapshot(self) -> tuple[Endpoint, ...]:
        """Healthy endpoints as of now, immutable."""

    def all(self) -> tuple[Endpoint, ...]:
        """Those too that get no new requests, for want of health or because they are drained."""


class Verdict(msgspec.Struct, frozen=True):
    """Where a request goes, and what that was found out from.

    Attributes:
        request: as it was understood.
        result: the scheduler's.
        candidates: endpoints that were considered.
        state: what the producers found.
        received: ``time.perf_counter()`` at the last body byte.
        body: in place of the client's; None when its bytes go on unchanged.
    """

    request: InferenceRequest
    result: SchedulingResult
    candidates: Sequence[Endpoint]
    state: CycleState
    received: float
    body: bytes | None


class Committer:
    """Puts decisions into force. Arguments as of :class:`pointsman.requestcontrol.director.Director`."""

    def __init__(
        self,
        endpoints: EndpointSource,
        ledger: Ledger,
        cost: CostModel,
        clock: Clock,
        rng: Random,
        observer: Observer,
        on_end: Callable[[Endpoint, int | None], None] | None,
        on_load: Callable[[str, str], None] | None,
    ) -> None:
        self.fitting = cost if isinstance(cost, FittingModel) else None
        self._endpoints, self._ledger, self._cost = endpoints, ledger, cost
        self._clock, self._rng, self._observer = clock, rng, observer
        self._on_end, self._on_load = on_end, on_load

    def commit(self, plan: Plan, verdict: Verdict) -> Exchange:
        """Reserve, tell, record."""
        request, result, state = verdict.request, verdict.result, verdict.state
        chosen, prefiller = result.chosen, result.prefiller
        known = self._cached_tokens(plan, request, chosen, state)
        # with a prefill pod, nothing is left to compute at the chosen one
        uncached = request.prompt_tokens - (known or 0) if prefiller is None else 0
        before = copy(self._ledger.load(chosen.id)) if plan.shadow is not None else NO_LOAD
        observe, sighting = self._look(plan, request, result, known)
        prefill = None
        if prefiller is not None:
            there = self._cached_tokens(plan, request, prefiller, state) or 0
            prefill = self._reserve(prefiller, request, request.prompt_tokens - there, prefill_only=True)
        reservation = self._reserve(chosen, request, uncached)
        self._tell(plan, verdict)
        record = decision_record(request, result, verdict.received, known, self._clock)
        self._observer.decided(record)
        if plan.shadow is not None:
            plan.shadow.decided(Decided(request, verdict.candidates, state, result, record, before, uncached))
        return LiveExchange(
            self._decision(plan, verdict, record),
            reservation,
            prefill=prefill,
            plan=plan,
            ledger=self._ledger,
            clock=self._clock,
            observer=self._observer,
            observe_body=observe,
            sighting=sighting,
            locate=self._locate,
            on_end=self._on_end,
        )

    def _look(
        self, plan: Plan, request: InferenceRequest, result: SchedulingResult, known: int | None
    ) -> tuple[bool, Sighting | None]:
        """Whether the answer's body is looked at, and what the latency model makes of it."""
        share, fitting = plan.config.observe_share, self.fitting
        observe = self._rng.random() < share or (fitting is not None and fitting.wants(share))
        if not observe or fitting is None or result.prefiller is not None:
            return observe, None
        return observe, Sighting(fitting, self._ledger, result.chosen.id, request.prompt_tokens, known)

    def _tell(self, plan: Plan, verdict: Verdict) -> None:
        for observer in plan.pick_observers:
            name = getattr(observer, "name", "?")
            try:
                plan.watchdog.call(name, observer.picked, verdict.request, verdict.result, verdict.state)
            except Exception as error:  # noqa: BLE001 - the decision stands
                report(self._observer, name, "picked", error)

    def _reserve(
        self, endpoint: Endpoint, request: InferenceRequest, uncached: int, *, prefill_only: bool = False
    ) -> Reservation:
        context = request.prompt_tokens
        work = self._cost.prefill_ms(uncached, context - uncached) if uncached else 0.0
        if self.fitting is not None:
            work *= self.fitting.paces.get(endpoint.id, 1.0)
        return self._ledger.reserve(
            endpoint.id,
            uncached_tokens=uncached,
            context_tokens=context,
            prefill_ms=work,
            prefill_only=prefill_only,
        )

    def _decision(self, plan: Plan, verdict: Verdict, record: DecisionRecord) -> RoutingDecision:
        request, result = verdict.request, verdict.result
        ask = None
        if plan.answer_headers:
            ask = partial(answer_headers, plan, self._observer, request, result.chosen)
        headers = {REQUEST_ID: request.id}
        if plan.request_headers:
            headers |= request_headers(plan, self._observer, request, result, verdict.state)
        return RoutingDecision(
            request,
            result.targets,
            record,
            headers,
            verdict.body,
            tuple(name for name in owned_headers(request.headers) if name not in headers),
            ask,
            self._on_load,
        )

    def _locate(self, hostport: str) -> Endpoint | None:
        return next((e for e in self._endpoints.all() if e.hostport == hostport), None)

    def _cached_tokens(self, plan: Plan, request: InferenceRequest, chosen: Endpoint, state: CycleState) -> int | None:
        """Prompt tokens that the endpoint is believed to hold by the best match written; None when nobody knows."""
        for key in plan.match_keys:
            match = state.get(key)
            if match is None:
                continue
            try:
                return max(0, min(int(match.tokens(chosen.slot)), request.prompt_tokens - 1))
            except Exception as error:  # noqa: BLE001 - a producer of the user's may write anything there
                self._observer.plugin_failed(key.name, "match", error)
        return None
