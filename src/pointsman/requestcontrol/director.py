"""Director: the way of one request from its bytes to a decision.

parse → tokens → candidates → producers → admitters → schedule → reserve → record. Whatever fails on the way that is
not the client's fault costs knowledge, not the request: a producer that raises leaves its key unwritten, a scorer
without its key loses its say, and if the scheduler itself fails the request goes to the next healthy endpoint in turn.
Everything of that is counted.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from time import perf_counter
from typing import Protocol, cast

from pointsman.api.endpoint import Endpoint
from pointsman.api.record import DecisionRecord
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import RoutingDecision, SchedulingResult
from pointsman.clock import Clock
from pointsman.errors import NoEndpointsError, RequestError, ShuttingDownError
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import CostModel
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import report
from pointsman.requestcontrol.decision import decision_record
from pointsman.requestcontrol.exchange import Exchange, Pending
from pointsman.requestcontrol.hints import owned_headers, read_hints
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.live import LiveExchange
from pointsman.requestcontrol.parsers.registry import parse_request
from pointsman.requestcontrol.rewrite import replace_model
from pointsman.requestcontrol.tokenizing.service import Tokenizing, enrich

REQUEST_ID = "x-request-id"
MAX_ID = 200


class EndpointSource(Protocol):
    """Where candidates come from."""

    def snapshot(self) -> tuple[Endpoint, ...]:
        """Healthy endpoints as of now, immutable."""


class Director:
    """Decides for each request where it goes. One per picker; the plan may be swapped at any time."""

    def __init__(
        self,
        plan: Plan,
        endpoints: EndpointSource,
        ledger: Ledger,
        cost: CostModel,
        clock: Clock,
        rng: Random,
        observer: Observer,
        on_end: Callable[[Endpoint, int | None], None] | None = None,
    ) -> None:
        self.tokenizing: Tokenizing | None = None
        """Finds the token ids of prompts before a decision; None: what the body tells is all there is."""
        self._plan = plan
        self._endpoints = endpoints
        self._ledger = ledger
        self._cost = cost
        self._clock = clock
        self._rng = rng
        self._observer = observer
        self._on_end = on_end
        self.draining = False

    @property
    def plan(self) -> Plan:
        return self._plan

    def replace_plan(self, plan: Plan) -> None:
        """Put another configuration in force; requests under way keep the one they began with."""
        self._plan = plan

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Tell everyone that keeps state by endpoint."""
        self._ledger.forget(endpoint.id)
        self._observer.endpoint_removed(endpoint.id)
        plan = self._plan
        plan.watchdog.begin(perf_counter() + plan.config.pick_budget / 1000)
        for observer in plan.endpoint_observers:
            name = getattr(observer, "name", "?")
            try:
                plan.watchdog.call(name, observer.endpoint_removed, endpoint)
            except Exception as error:  # noqa: BLE001 - the others must forget it all the same
                report(self._observer, name, "endpoint-removed", error)

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange | Pending:
        """Choose endpoints for a request; see :class:`pointsman.requestcontrol.exchange.Decider`."""
        plan, tokenizing = self._plan, self.tokenizing
        try:
            if self.draining:
                raise ShuttingDownError("the picker is shutting down")
            request = self._parse(head, body)
        except RequestError as error:
            self._observer.refused(error.reason)
            raise
        if tokenizing is None:
            return self._decide(plan, request, head, body, received, received)
        known = tokenizing.immediate(request)
        if known is not None:
            return self._decide(plan, enrich(request, known), head, body, received, received)
        later = self._decide_later(plan, tokenizing, request, head, body, received)
        return cast("Pending", asyncio.get_running_loop().create_task(later))

    async def _decide_later(
        self,
        plan: Plan,
        tokenizing: Tokenizing,
        request: InferenceRequest,
        head: RequestHead,
        body: bytes,
        received: float,
    ) -> Exchange:
        found = await tokenizing.tokens(request, body)
        if found.token_ids is None:
            self._observer.degraded("tokens-late" if found.late else "no-tokens")
        request = enrich(request, found)
        # The time a tokenizer took must not be missing from the scorers' budget, nor count against them.
        start = perf_counter() if math.isfinite(received) else received
        return self._decide(plan, request, head, body, received, start)

    def _decide(
        self, plan: Plan, request: InferenceRequest, head: RequestHead, body: bytes, received: float, start: float
    ) -> Exchange:
        try:
            renamed = request.target_model not in ("", request.model)
            changed = replace_model(body, request.target_model) if renamed else None
            plan.watchdog.begin(start + plan.config.pick_budget / 1000)
            candidates = self._candidates(head)
            state = self._produce(plan, request, candidates)
            self._admit(plan, request, candidates, state)
            result = self._schedule(plan, request, candidates, state, start)
        except RequestError as error:
            self._observer.refused(error.reason)
            raise
        return self._commit(plan, request, result, state, received, changed)

    def _parse(self, head: RequestHead, body: bytes) -> InferenceRequest:
        hints = read_hints(head.headers)
        if hints.malformed:
            self._observer.degraded("slo-header")
        if head.body_unseen:
            self._observer.degraded("no-body")
        return parse_request(head, body, request_id=_request_id(head), arrival=self._clock.now(), hints=hints)

    def _candidates(self, head: RequestHead) -> Sequence[Endpoint]:
        endpoints: Sequence[Endpoint] = self._endpoints.snapshot()
        if head.subset is not None:
            allowed = set(head.subset)
            endpoints = [e for e in endpoints if e.hostport in allowed or e.address in allowed]
        if not endpoints:
            raise NoEndpointsError("failed to find endpoint candidates for serving the request")
        return endpoints

    def _produce(self, plan: Plan, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> CycleState:
        state = CycleState()
        for producer in plan.producers:
            try:
                plan.watchdog.call(producer.name, producer.produce, request, endpoints, state)
            except Exception as error:  # noqa: BLE001 - less knowledge, never a stall
                report(self._observer, producer.name, "produce", error)
                self._observer.degraded("no-data")
        state.seal()
        return state

    def _admit(self, plan: Plan, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        for admitter in plan.admitters:
            try:
                plan.watchdog.call(admitter.name, admitter.admit, request, endpoints, state)
            except RequestError:
                raise
            except Exception as error:  # noqa: BLE001 - a broken admitter admits
                report(self._observer, admitter.name, "admit", error)

    def _schedule(
        self,
        plan: Plan,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        state: CycleState,
        start: float,
    ) -> SchedulingResult:
        deadline = start + plan.config.pick_budget / 1000
        try:
            return plan.scheduler.schedule(request, endpoints, state, deadline)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - the last step down
            self._observer.plugin_failed("scheduler", "schedule", error)
            return plan.scheduler.round_robin(endpoints, "scheduler-error")

    def _commit(
        self,
        plan: Plan,
        request: InferenceRequest,
        result: SchedulingResult,
        state: CycleState,
        received: float,
        body: bytes | None,
    ) -> Exchange:
        chosen = result.chosen
        known = self._cached_tokens(plan, request, chosen, state)
        cached = known or 0
        uncached = request.prompt_tokens - cached
        reservation = self._ledger.reserve(
            chosen.id,
            uncached_tokens=uncached,
            context_tokens=request.prompt_tokens,
            prefill_ms=self._cost.prefill_ms(uncached, cached) if uncached else 0.0,
        )
        for observer in plan.pick_observers:
            name = getattr(observer, "name", "?")
            try:
                plan.watchdog.call(name, observer.picked, request, result, state)
            except Exception as error:  # noqa: BLE001 - the decision stands
                report(self._observer, name, "picked", error)
        record = decision_record(request, result, received, known, self._clock)
        observe = self._rng.random() < plan.config.observe_share
        self._observer.decided(record)
        return LiveExchange(
            self._decision(plan, request, result, record, body),
            reservation,
            plan=plan,
            ledger=self._ledger,
            clock=self._clock,
            observer=self._observer,
            observe_body=observe,
            locate=self._locate,
            on_end=self._on_end,
        )

    def _decision(
        self,
        plan: Plan,
        request: InferenceRequest,
        result: SchedulingResult,
        record: DecisionRecord,
        body: bytes | None,
    ) -> RoutingDecision:
        ask = partial(self._answer_headers, plan, request, result.chosen) if plan.answer_headers else None
        return RoutingDecision(
            request,
            result.targets,
            record,
            {REQUEST_ID: request.id},
            body,
            owned_headers(request.headers),
            ask,
        )

    def _answer_headers(
        self, plan: Plan, request: InferenceRequest, chosen: Endpoint, served: str
    ) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        plan.watchdog.begin(perf_counter() + plan.config.pick_budget / 1000)
        for plugin in plan.answer_headers:
            name = getattr(plugin, "name", "?")
            try:
                headers |= plan.watchdog.call(name, plugin.answer_headers, request, chosen, served)
            except Exception as error:  # noqa: BLE001 - the answer is worth more
                report(self._observer, name, "answer-headers", error)
        return headers

    def _locate(self, hostport: str) -> Endpoint | None:
        return next((e for e in self._endpoints.snapshot() if e.hostport == hostport), None)

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


def _request_id(head: RequestHead) -> str:
    given = head.headers.get(REQUEST_ID, "")
    return given if 0 < len(given) <= MAX_ID else str(uuid.uuid4())
