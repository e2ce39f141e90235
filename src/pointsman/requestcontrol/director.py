"""Director: the way of one request from its bytes to a decision.

parse → tokens, indexers → candidates → producers → admitters → schedule → reserve → record. Whatever fails on the way
that is not the client's fault costs knowledge, not the request: a producer that raises leaves its key unwritten, a
scorer without its key loses its say, and if the scheduler itself fails the request goes to the next healthy endpoint in
turn. Everything of that is counted.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from random import Random
from time import perf_counter
from typing import Protocol, cast

import msgspec

from pointsman.api.endpoint import NO_LOAD, Endpoint
from pointsman.api.record import DecisionRecord
from pointsman.api.request import DEFAULT_FLOW, InferenceRequest, RequestHead
from pointsman.api.result import RoutingDecision, SchedulingResult
from pointsman.clock import Clock
from pointsman.errors import NoEndpointsError, RequestError, ShuttingDownError
from pointsman.framework.keys import REMOTE_MATCHES
from pointsman.framework.kv import RemoteKv, RemoteMatches
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import CostModel
from pointsman.framework.shadowing import Decided
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import report
from pointsman.latency.fit import FittingModel
from pointsman.requestcontrol.decision import decision_record
from pointsman.requestcontrol.exchange import Exchange, Pending
from pointsman.requestcontrol.fitting import Sighting
from pointsman.requestcontrol.foreknowledge import NO_MATCHES, find_out
from pointsman.requestcontrol.hints import owned_headers, read_hints
from pointsman.requestcontrol.ledger import Ledger, Reservation
from pointsman.requestcontrol.live import LiveExchange
from pointsman.requestcontrol.parsers.registry import parse_request
from pointsman.requestcontrol.plugin_calls import answer_headers, flow_of, request_headers
from pointsman.requestcontrol.policies import NO_POLICIES, ModelPolicies
from pointsman.requestcontrol.rewrite import replace_model
from pointsman.requestcontrol.tokenizing.service import Tokenizing, enrich

REQUEST_ID = "x-request-id"
MAX_ID = 200


class EndpointSource(Protocol):
    """Where candidates come from."""

    def snapshot(self) -> tuple[Endpoint, ...]:
        """Healthy endpoints as of now, immutable."""

    def all(self) -> tuple[Endpoint, ...]:
        """Those too that get no new requests, for want of health or because they are drained."""


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
        on_load: Callable[[str, str], None] | None = None,
    ) -> None:
        self.tokenizing: Tokenizing | None = None
        """Finds the token ids of prompts before a decision; None: what the body tells is all there is."""
        self.remote_index: RemoteKv | None = None
        """Indexers that are asked before a decision; None: there are none."""
        self.policies: ModelPolicies = NO_POLICIES
        """Priorities of objectives, and rewrites of models; replaced as a whole."""
        self._plan = plan
        self._endpoints = endpoints
        self._ledger = ledger
        self._cost = cost
        self._fitting = cost if isinstance(cost, FittingModel) else None
        self._clock = clock
        self._rng = rng
        self._observer = observer
        self._on_end = on_end
        self._on_load = on_load
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
        if self._fitting is not None:
            self._fitting.forget(endpoint.id)
        self._observer.endpoint_removed(endpoint.id)
        plan = self._plan
        plan.watchdog.begin(perf_counter() + plan.config.pick_budget / 1000)
        for observer in plan.endpoint_observers:
            name = getattr(observer, "name", "?")
            try:
                plan.watchdog.call(name, observer.endpoint_removed, endpoint)
            except Exception as error:  # noqa: BLE001 - the others must forget it all the same
                report(self._observer, name, "endpoint-removed", error)
        if plan.shadow is not None:
            plan.shadow.endpoint_removed(endpoint)

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange | Pending:
        """Choose endpoints for a request; see :class:`pointsman.requestcontrol.exchange.Decider`."""
        plan, tokenizing, remote = self._plan, self.tokenizing, self.remote_index
        try:
            if self.draining:
                raise ShuttingDownError("the picker is shutting down")
            request = self._parse(plan, head, body)
        except RequestError as error:
            self._observer.refused(error.reason)
            raise
        known = tokenizing.immediate(request) if tokenizing is not None else None
        if known is not None:
            request, tokenizing = enrich(request, known), None
        if tokenizing is None and (remote is None or remote.passes(request)):
            return self._decide(plan, request, head, body, received, received)
        facts = partial(find_out, request, body, self._endpoints.snapshot(), tokenizing, remote, self._observer)
        later = self._decide_later(plan, facts, head, body, received)
        return cast("Pending", asyncio.get_running_loop().create_task(later))

    def decide_parsed(self, request: InferenceRequest) -> Exchange:
        """Choose endpoints at once for a request that has no body to be read, as a simulation's; no time limit.

        Raises:
            RequestError: when the client must be refused.
        """
        return self._decide(self._plan, request, RequestHead({}), b"", math.inf, math.inf)

    async def _decide_later(
        self,
        plan: Plan,
        facts: Callable[[], Awaitable[tuple[InferenceRequest, RemoteMatches]]],
        head: RequestHead,
        body: bytes,
        received: float,
    ) -> Exchange:
        request, matches = await facts()
        # The time a tokenizer took must not be missing from the scorers' budget, nor count against them.
        start = perf_counter() if math.isfinite(received) else received
        return self._decide(plan, request, head, body, received, start, matches)

    def _decide(
        self,
        plan: Plan,
        request: InferenceRequest,
        head: RequestHead,
        body: bytes,
        received: float,
        start: float,
        matches: RemoteMatches = NO_MATCHES,
    ) -> Exchange:
        try:
            renamed = request.target_model not in ("", request.model)
            changed = replace_model(body, request.target_model) if renamed else None
            plan.watchdog.begin(start + plan.config.pick_budget / 1000)
            candidates = self._candidates(head)
            state = self._produce(plan, request, candidates, matches)
            self._admit(plan, request, candidates, state)
            result = self._schedule(plan, request, candidates, state, start)
        except RequestError as error:
            self._observer.refused(error.reason)
            raise
        return self._commit(plan, request, result, candidates, state, received, changed)

    def _parse(self, plan: Plan, head: RequestHead, body: bytes) -> InferenceRequest:
        hints = read_hints(head.headers)
        if hints.malformed:
            self._observer.degraded("slo-header")
        if head.body_unseen:
            self._observer.degraded("no-body")
        request = parse_request(head, body, request_id=_request_id(head), arrival=self._clock.now(), hints=hints)
        if plan.flow_identities and request.fairness_id == DEFAULT_FLOW:
            flow = flow_of(plan, self._observer, request) or DEFAULT_FLOW
            request = msgspec.structs.replace(request, fairness_id=flow)
        return self.policies.apply(request, self._rng)

    def _candidates(self, head: RequestHead) -> Sequence[Endpoint]:
        endpoints: Sequence[Endpoint] = self._endpoints.snapshot()
        if head.subset is not None:
            allowed = set(head.subset)
            endpoints = [e for e in endpoints if e.hostport in allowed or e.address in allowed]
        if not endpoints:
            raise NoEndpointsError("failed to find endpoint candidates for serving the request")
        return endpoints

    def _produce(
        self, plan: Plan, request: InferenceRequest, endpoints: Sequence[Endpoint], matches: RemoteMatches
    ) -> CycleState:
        state = CycleState()
        if matches:
            state.write(REMOTE_MATCHES, matches)
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
        candidates: Sequence[Endpoint],
        state: CycleState,
        received: float,
        body: bytes | None,
    ) -> Exchange:
        chosen, prefiller = result.chosen, result.prefiller
        known = self._cached_tokens(plan, request, chosen, state)
        # with a prefill pod, nothing is left to compute at the chosen one
        uncached = request.prompt_tokens - (known or 0) if prefiller is None else 0
        before = copy(self._ledger.load(chosen.id)) if plan.shadow is not None else NO_LOAD
        share, fitting = plan.config.observe_share, self._fitting
        observe = self._rng.random() < share or (fitting is not None and fitting.wants(share))
        sighting = None
        if observe and fitting is not None and prefiller is None:
            sighting = Sighting(fitting, self._ledger, chosen.id, request.prompt_tokens, known)
        prefill = None
        if prefiller is not None:
            there = self._cached_tokens(plan, request, prefiller, state) or 0
            prefill = self._reserve(prefiller, request, request.prompt_tokens - there, prefill_only=True)
        reservation = self._reserve(chosen, request, uncached)
        for observer in plan.pick_observers:
            name = getattr(observer, "name", "?")
            try:
                plan.watchdog.call(name, observer.picked, request, result, state)
            except Exception as error:  # noqa: BLE001 - the decision stands
                report(self._observer, name, "picked", error)
        record = decision_record(request, result, received, known, self._clock)
        self._observer.decided(record)
        if plan.shadow is not None:
            plan.shadow.decided(Decided(request, candidates, state, result, record, before, uncached))
        return LiveExchange(
            self._decision(plan, request, result, state, record, body),
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

    def _reserve(
        self, endpoint: Endpoint, request: InferenceRequest, uncached: int, *, prefill_only: bool = False
    ) -> Reservation:
        context = request.prompt_tokens
        return self._ledger.reserve(
            endpoint.id,
            uncached_tokens=uncached,
            context_tokens=context,
            prefill_ms=self._cost.prefill_ms(uncached, context - uncached) if uncached else 0.0,
            prefill_only=prefill_only,
        )

    def _decision(
        self,
        plan: Plan,
        request: InferenceRequest,
        result: SchedulingResult,
        state: CycleState,
        record: DecisionRecord,
        body: bytes | None,
    ) -> RoutingDecision:
        ask = None
        if plan.answer_headers:
            ask = partial(answer_headers, plan, self._observer, request, result.chosen)
        headers = {REQUEST_ID: request.id}
        if plan.request_headers:
            headers |= request_headers(plan, self._observer, request, result, state)
        return RoutingDecision(
            request,
            result.targets,
            record,
            headers,
            body,
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


def _request_id(head: RequestHead) -> str:
    given = head.headers.get(REQUEST_ID, "")
    return given if 0 < len(given) <= MAX_ID else str(uuid.uuid4())
