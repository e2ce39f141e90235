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
from functools import partial
from random import Random
from time import perf_counter
from typing import cast

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import DEFAULT_FLOW, InferenceRequest, RequestHead
from pointsman.api.result import SchedulingResult
from pointsman.clock import Clock
from pointsman.errors import NoEndpointsError, RequestError, ShuttingDownError
from pointsman.framework.keys import REMOTE_MATCHES
from pointsman.framework.kv import RemoteKv, RemoteMatches
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import CostModel
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import report
from pointsman.requestcontrol.commit import REQUEST_ID, Committer, EndpointSource, Verdict
from pointsman.requestcontrol.exchange import Exchange, Pending
from pointsman.requestcontrol.foreknowledge import NO_MATCHES, find_out
from pointsman.requestcontrol.hints import read_hints
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.parsers.registry import parse_request
from pointsman.requestcontrol.plugin_calls import flow_of
from pointsman.requestcontrol.policies import NO_POLICIES, ModelPolicies
from pointsman.requestcontrol.rewrite import replace_model
from pointsman.requestcontrol.tokenizing.service import Tokenizing, enrich

MAX_ID = 200


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
        self._clock = clock
        self._rng = rng
        self._observer = observer
        self._committer = Committer(endpoints, ledger, cost, clock, rng, observer, on_end, on_load)
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
        if self._committer.fitting is not None:
            self._committer.fitting.forget(endpoint.id)
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
        return self._committer.commit(plan, Verdict(request, result, candidates, state, received, changed))

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


def _request_id(head: RequestHead) -> str:
    given = head.headers.get(REQUEST_ID, "")
    return given if 0 < len(given) <= MAX_ID else str(uuid.uuid4())
