"""Runs a policy on a workload: the live Director against simulated engines, event by event, under a manual clock.

Everything that takes time in the real world is an event on one heap: a request arrives, an engine's step ends, a
metrics page or a batch of KV-cache events reaches the picker, a pod fails. Events of the same moment happen in the
order in which they were planned, so a run depends on its inputs alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from heapq import heappop, heappush
from random import Random

import msgspec

from pointsman.api.request import InferenceRequest
from pointsman.clock import ManualClock
from pointsman.errors import BadRequestError, RequestError
from pointsman.framework.plugin import Handle
from pointsman.lab.faults import plan_faults
from pointsman.lab.fleet import LabFleet, LabPod
from pointsman.lab.flight import Flight
from pointsman.lab.observing import LabObserver
from pointsman.lab.options import FleetOptions
from pointsman.lab.requests import LabRequest, Workload
from pointsman.lab.results import LoadSample, RunResult, row_of
from pointsman.latency.model import LATENCY_PROFILES
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.planning import build_plan, make_cost
from pointsman.sim.kv import CacheEvent
from pointsman.sim.sequence import SimRequest

FIRST_AND_LAST = 1 << 40
"""Report interval of simulated answers: the first token and the end, nothing between."""
PATH = "/v1/completions"
SESSION_HEADER = "x-session-id"
Progress = Callable[[float, int], None]
"""Told now and then of the simulated time and the requests finished."""


class Run:
    """One policy, one workload, one fleet.

    Args:
        policy: a preset's name or a configuration file.
        workload: what is asked.
        options: of the fleet.
        progress: told every thousand requests.

    Raises:
        ConfigError: if the policy cannot be built.
    """

    def __init__(
        self, policy: str, workload: Workload, options: FleetOptions | None = None, progress: Progress | None = None
    ) -> None:
        self.options = options or FleetOptions()
        self.workload = workload
        self.clock = ManualClock()
        self.fleet = LabFleet(self.options, self.clock)
        self.observer = LabObserver()
        self.result = RunResult(policy, workload.name, [], [])
        self.director = self._make_director(policy)
        self._progress = progress or (lambda _now, _count: None)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0
        self._flights: dict[str, Flight] = {}
        self._open = 0
        self._loss = Random(f"{self.options.seed}/loss")
        self._source: Iterator[LabRequest] = iter(())

    def _make_director(self, policy: str) -> Director:
        ledger = Ledger(self.clock)
        rng = Random(f"{self.options.seed}/picks")
        models = LATENCY_PROFILES
        first = Handle(clock=self.clock, rng=Random(0), inflight=ledger, cost=next(iter(models.values())))
        self.cost = cost = make_cost(build_plan(policy, first))
        handle = Handle(clock=self.clock, rng=rng, inflight=ledger, cost=cost, kv=self.fleet.index)
        plan = build_plan(policy, handle, self.observer)
        share = self.options.observe_share
        if share is not None:
            config = msgspec.structs.replace(plan.config, observe_share=share)
            plan = msgspec.structs.replace(plan, config=config)
        director = Director(plan, self.fleet.datastore, ledger, cost, self.clock, rng, self.observer)
        self.fleet.datastore.on_removed(director.endpoint_removed)
        return director

    def run(self) -> RunResult:
        """Until every request has ended.

        Returns:
            The same for the same inputs, but for ``wall_s``.
        """
        began = time.perf_counter()
        self._source = self.workload.requests()
        self._next_arrival()
        for number, pod in enumerate(self.fleet.pods.values()):
            # Readings are spread over a period, as the scraper spreads them.
            self.plan(self.options.scrape_period * number / max(1, self.options.pods), partial(self._scrape, pod))
        plan_faults(self)
        if self.options.sample:
            self.plan(0.0, self._sample)
        heap, clock = self._heap, self.clock
        while heap and (self._open or self._arrivals_left):
            at, _, action = heappop(heap)
            clock.move_to(at)
            action()
        self.result.rows.sort(key=lambda row: (row.arrival, row.id))
        self.result.duration = max((row.end for row in self.result.rows), default=0.0)
        self.result.degraded, self.result.failures = self.observer.kinds, self.observer.failures
        self.result.busy_s = [pod.busy_seconds for pod in self.fleet.pods.values()]
        self.result.wall_s = time.perf_counter() - began
        return self.result

    def plan(self, at: float, action: Callable[[], None]) -> None:
        """Do something at a time that has not passed."""
        self._planned += 1
        heappush(self._heap, (at, self._planned, action))

    # -- requests -------------------------------------------------------------------------------------------------

    def _next_arrival(self) -> None:
        """Arrivals are planned one at a time, so that a trace of any length is read as it is needed."""
        request = next(self._source, None)
        self._arrivals_left = request is not None
        if request is not None:
            self.plan(max(request.arrival, self.clock.now()), partial(self._arrive, request, True))

    def _arrive(self, request: LabRequest, from_source: bool) -> None:
        if from_source:
            self._next_arrival()
        self.catch_up()
        row = row_of(request)
        self.result.rows.append(row)
        self._open += 1
        flight = Flight(request, row)
        try:
            flight.exchange = self.director.decide_parsed(_parsed(request, self.clock.now()))
        except RequestError as error:
            self.close(flight, error.http_status, "refused")
            return
        flight.targets = [self.fleet.at(endpoint) for endpoint in flight.exchange.decision.endpoints]
        row.predicted_tokens = flight.exchange.decision.record.predicted_cached_tokens or 0
        self.plan(self.clock.now() + self.options.network, partial(self.send, flight))

    def send(self, flight: Flight) -> None:
        """To the first of the chosen pods that lives, as the proxy retries; 503 when none does."""
        request = flight.request
        pod = next((pod for pod in flight.targets if pod.alive), None)
        if pod is None or flight.exchange is None:
            self.close(flight, 503, "upstream-reset")
            return
        flight.pod, flight.row.pod = pod, pod.number
        flight.exchange.served(f"{pod.spec.address}:{pod.spec.port}")
        wanted = SimRequest(
            request.id, request.tokens, request.max_tokens, request.adapter, request.salt, FIRST_AND_LAST
        )
        self.cut(pod)
        try:
            pod.engine.submit(wanted, self.clock.now())
        except BadRequestError:
            self.close(flight, 400, "complete")
            return
        self._flights[request.id] = flight
        if not pod.stepping:
            self._begin(pod)

    def close(self, flight: Flight, status: int, cause: str) -> None:
        """A request is over."""
        now = self.clock.now()
        self._flights.pop(flight.request.id, None)
        self._open -= 1
        flight.close(status, cause, now)
        if len(self.result.rows) % 1000 == 0:
            self._progress(now, len(self.result.rows) - self._open)
        following = self.workload.follow(flight.request, flight.row.end)
        if following is not None:
            self._open += 1  # it keeps the run going until it arrives
            self.plan(max(now, following.arrival), partial(self._arrive_following, following))

    def _arrive_following(self, request: LabRequest) -> None:
        self._open -= 1
        self._arrive(request, False)

    # -- engines --------------------------------------------------------------------------------------------------

    def _begin(self, pod: LabPod) -> None:
        now = self.clock.now()
        length = pod.engine.begin(now)
        pod.stepping = length is not None
        if length is not None:
            pod.step_began = now
            self._end_step(pod, pod.engine.stretch(now + length))

    def _end_step(self, pod: LabPod, at: float) -> None:
        pod.step_ends = at
        self.plan(at, partial(self._finish, pod, at))

    def cut(self, pod: LabPod) -> None:
        """Something is about to happen to the pod's engine: it stops at the end of the step under way."""
        if pod.stepping and pod.alive:
            end = max(self.clock.now(), pod.engine.cut(self.clock.now()))
            if end != pod.step_ends:
                self._end_step(pod, end)

    def catch_up(self) -> None:
        """The picker gets to know of all KV-cache events up to now, also of steps within a stretch."""
        now = self.clock.now()
        for pod in self.fleet.pods.values() if self.options.events else ():
            if pod.stepping and pod.alive:
                pod.engine.settle(now)
                self._publish_events(pod, now)

    def _publish_events(self, pod: LabPod, now: float) -> None:
        overdue: list[CacheEvent] = []
        for at, events in pod.engine.drain_batches(now):
            if self.options.event_loss and self._loss.random() < self.options.event_loss:
                continue
            due = at + self.options.event_lag
            if due <= now:
                overdue += events
            else:
                self.plan(due, partial(self.fleet.heard, pod, events))
        if overdue:
            self.fleet.heard(pod, overdue)

    def _finish(self, pod: LabPod, planned: float) -> None:
        if not pod.alive or planned != pod.step_ends:
            return  # dead, or cut short since
        now = self.clock.now()
        pod.busy_seconds += now - pod.step_began
        result = pod.engine.finish(now)
        self._publish_events(pod, now)
        for emission in result.emissions:
            flight = self._flights.get(emission.request_id)
            if flight is None:
                continue
            flight.seen(emission, now + self.options.network)
            if emission.finished is not None:
                self.close(flight, 200, "complete")
        self._begin(pod)

    def _scrape(self, pod: LabPod) -> None:
        if not pod.alive:
            return
        now = self.clock.now()
        self.plan(now + self.options.scrape_delay, partial(self.fleet.scraped, pod))
        self.plan(now + self.options.scrape_period, partial(self._scrape, pod))

    def abandon(self, pod: LabPod) -> None:
        """A pod is gone: what it had in hand fails."""
        for flight in [flight for flight in self._flights.values() if flight.pod is pod]:
            self.close(flight, 503, "upstream-reset")

    def watch(self, pod: LabPod) -> None:
        """Begin to read a new pod's metrics."""
        self.plan(self.clock.now(), partial(self._scrape, pod))

    def _sample(self) -> None:
        for pod in self.fleet.pods.values():
            pod.engine.settle(self.clock.now())
        stats = [pod.engine.stats for pod in self.fleet.pods.values()]
        self.result.load.append(
            LoadSample(
                self.clock.now(),
                [one.running for one in stats],
                [one.waiting for one in stats],
                [one.kv_usage for one in stats],
            )
        )
        self.plan(self.clock.now() + self.options.sample, self._sample)


def _parsed(request: LabRequest, now: float) -> InferenceRequest:
    """The request as the parser of completions makes it of a list of token ids."""
    model = request.adapter or "lab"
    return InferenceRequest(
        id=request.id,
        model=model,
        target_model=model,
        path=PATH,
        prompt_tokens=len(request.tokens),
        token_ids=request.tokens,
        max_tokens=request.max_tokens,
        stream=True,
        cache_salt=request.salt,
        headers=_headers(request),
        arrival=now,
        priority=request.priority,
        body_bytes=math.ceil(5.5 * len(request.tokens)),
    )


def _headers(request: LabRequest) -> dict[str, str]:
    """The request's own, and its session under the name that clients use."""
    if not request.session or SESSION_HEADER in request.headers:
        return request.headers
    return {**request.headers, SESSION_HEADER: request.session}


def simulate(policy: str, workload: Workload, options: FleetOptions | None = None) -> RunResult:
    """Run once and to the end.

    Raises:
        ConfigError: if the policy cannot be built.
    """
    return Run(policy, workload, options).run()
