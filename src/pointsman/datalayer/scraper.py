"""Reads the load of every endpoint, as often as each is worth, and so learns which of them are alive.

Each endpoint has tasks and a connection of its own, so one that hangs delays nobody else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from msgspec.structs import replace

from pointsman.api.endpoint import Endpoint, EndpointId, EndpointMetrics
from pointsman.clock import Clock
from pointsman.datalayer.datastore import Changes, Datastore
from pointsman.datalayer.engine_configs import engine_of
from pointsman.datalayer.engines import ENGINES, Engines
from pointsman.datalayer.orca import parse_load_report
from pointsman.datalayer.pacing import Budget, Seen, good_for, next_period, rhythm
from pointsman.datalayer.pod_reader import PodReader, Read
from pointsman.datalayer.probing import HealthRule, Models, Outcome
from pointsman.datalayer.watch import Watch
from pointsman.framework.gauges import corrected, is_fresh
from pointsman.framework.observer import Observer
from pointsman.framework.plugin import InflightView

MODELS_PERIOD = 10.0
"""Seconds between two looks at an endpoint's model list."""
MODELS_RETRY = 1.0
"""Seconds until the next look when one failed."""
TIMEOUTS_TO_UNHEALTHY = 5
LOST_PAUSE = 1.0
"""Seconds between two readings of an endpoint made because it closed the connection."""
READING_OVERHEAD = 0.00025
"""Seconds of CPU that a reading takes in the event loop and the kernel, with cold caches, beside what is measured.

At the default rhythm; see bench/scrape.py.
"""
_SILENT = frozenset({Outcome.UNREACHABLE, Outcome.TIMEOUT})


class Scraper:
    """Keeps the datastore's metrics and health up to date, and follows its changes between start and stop.

    A reading that succeeds replaces the metrics. One that does not leaves the old ones, whose age then tells.
    Connections refused or broken ``failures_to_unhealthy`` times in a row make an endpoint unhealthy, and so do five
    time-outs in a row; the first answer makes it healthy again (see :class:`HealthRule`).
    """

    def __init__(
        self,
        datastore: Datastore,
        clock: Clock,
        observer: Observer,
        *,
        period: float = 0.2,
        timeout: float = 1.0,
        failures_to_unhealthy: int = 2,
        rng: random.Random | None = None,
        inflight: InflightView | None = None,
        budget: float = 0.05,
        scale: float = 1.0,
        adaptive: bool = True,
        fed: Callable[[EndpointId, float], bool] = lambda *_: False,
        engines: Engines = ENGINES,
    ) -> None:
        """Set up, without touching the network.

        Args:
            datastore: whose endpoints are read.
            clock: stamps the readings.
            observer: told of each reading and of the number of endpoints.
            period: real seconds between two readings of an endpoint whose gauges move; the others are read less often
                (see :func:`pointsman.datalayer.pacing.rhythm`). Varied by a tenth, to spread the load.
            timeout: real seconds one reading may take.
            failures_to_unhealthy: failed connections in a row that make an endpoint unhealthy.
            rng: spreads the readings.
            inflight: the ledger; tells where something is going on.
            budget: share of one core that readings may take; when they would take more, all periods are stretched.
            scale: seconds of the clock in one real second.
            adaptive: False reads every endpoint every ``period``, whatever goes on there and whatever it costs.
            fed: whether someone else delivers an endpoint's metrics as of a moment of the clock; then it is read as
                seldom as an idle one.
            engines: whose pages are understood.
        """
        self._datastore, self._clock, self._observer = datastore, clock, observer
        self._pace, self._timeout, self._scale = rhythm(period), timeout, scale
        self._failures, self._adaptive, self._engines = failures_to_unhealthy, adaptive, engines
        self._rng = rng or random.Random()
        self._inflight, self._fed = inflight, fed
        self.budget = Budget(budget)
        self._running = False
        self._watches: dict[EndpointId, Watch] = {}
        self._places: dict[str, EndpointId] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        datastore.on_changed(self._follow)

    async def start(self) -> None:
        """Begin to read every endpoint. Needs a running event loop; harmless when already started."""
        if not self._running:
            self._running = True
            self._follow(Changes(added=self._datastore.all()))
            self._spawn(self._sweep(), "sweep")

    async def stop(self) -> None:
        """End all readings and close all connections. Harmless when not started."""
        if not self._running:
            return
        self._running = False
        for watch in list(self._watches.values()):
            self._unwatch(watch.id)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def report_connect_failure(self, endpoint_id: EndpointId) -> None:
        """The proxy could not connect: probe at once, and believe it if the probe fails too."""
        if watch := self._watches.get(endpoint_id):
            watch.rule.suspect()
            watch.probe.wake()

    def load_report(self, hostport: str, header: str) -> None:
        """An answer of the endpoint at ``ip:port`` carried its load (see :mod:`pointsman.datalayer.orca`).

        The header tells no running requests: those are carried on from the last reading by the ledger. It is that of
        one data-parallel rank, so that it is not used where there are several.
        """
        endpoint = self._datastore.get(self._places.get(hostport, EndpointId("")))
        report = parse_load_report(header) if endpoint is not None else None
        if endpoint is None or report is None or report.waiting is None or report.kv_usage is None:
            return
        metrics, now = endpoint.metrics, self._clock.now()
        if metrics.ranks > 1:
            return
        fresh = replace(
            metrics,
            waiting=report.waiting,
            kv_usage=report.kv_usage,
            running=self._running_now(endpoint, now),
            source="orca",
            updated=now,
        )
        self._datastore.update_metrics(endpoint.id, fresh)
        self._watches[endpoint.id].kinds["orca"] += 1

    def describe(self, endpoint_id: EndpointId) -> dict[str, Any]:
        """How an endpoint is read: the period now (s), the last outcome, and the outcomes so far; for people."""
        watch = self._watches.get(endpoint_id)
        if watch is None:
            return {}
        return watch.view()

    def _running_now(self, endpoint: Endpoint, now: float) -> int:
        metrics, inflight = endpoint.metrics, self._inflight
        if inflight is None:
            return metrics.running
        if not is_fresh(metrics, now):
            return inflight.load(endpoint.id).decoding
        return corrected(metrics, inflight.since(endpoint.id, metrics.updated)).running

    def _follow(self, changes: Changes) -> None:
        if not self._running:
            return
        for endpoint in changes.removed:
            self._unwatch(endpoint.id)
        for endpoint in changes.added:
            self._watch(endpoint)
        for endpoint in changes.changed:
            if (watch := self._watches.get(endpoint.id)) and watch.reader is not None:
                watch.reader.engine = engine_of(endpoint.labels, self._engines).engine
        self._report_endpoints()

    def _watch(self, endpoint: Endpoint) -> None:
        rule = HealthRule(self._failures, TIMEOUTS_TO_UNHEALTHY)
        watch = Watch(endpoint, rule, self._pace.moving)
        # A connection that the pod closes is the first sign that it ends: look at once, not after an idle period.
        lost = partial(self._lost, watch)
        watch.reader = reader = PodReader(endpoint, self._clock, self._timeout, lost, self._engines)
        self._watches[endpoint.id] = watch
        self._places[endpoint.hostport] = endpoint.id
        watch.tasks = (
            self._spawn(self._read_load(watch, reader), f"metrics {endpoint.id}"),
            self._spawn(self._read_models(watch, reader), f"models {endpoint.id}"),
        )

    def _lost(self, watch: Watch) -> None:
        """An idle connection is gone. Some servers close one after every answer: those are not read the faster."""
        now = asyncio.get_running_loop().time()
        if now - watch.lost_at >= LOST_PAUSE:
            watch.lost_at = now
            watch.probe.wake()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _unwatch(self, endpoint_id: EndpointId) -> None:
        watch = self._watches.pop(endpoint_id, None)
        if watch is None:
            return
        if self._places.get(watch.hostport) == endpoint_id:
            del self._places[watch.hostport]
        self.budget.drop(endpoint_id)
        for task in watch.tasks:
            task.cancel()
        if watch.reader is not None:
            watch.reader.close()

    async def _read_load(self, watch: Watch, reader: PodReader) -> None:
        # The first readings are spread over a period, or all pods would be read at the same moment ever after.
        await asyncio.sleep(self._rng.uniform(0, self._pace.moving))
        loop = asyncio.get_running_loop()
        while self._watches.get(watch.id) is watch:
            watch.probe.begin()
            begun = loop.time()
            read = await reader.read()
            took = loop.time() - begun
            self._note(watch, read)
            self._observer.scraped(watch.id, read.outcome is Outcome.READ)
            self._observer.scrape_took(read.kind, took, read.size)
            self._judge(watch, read)
            await watch.probe.sleep(begun + watch.period - loop.time())

    def _note(self, watch: Watch, read: Read) -> None:
        """Take note of a reading: when the next one is due, and what was read."""
        watch.last = read
        watch.kinds[read.kind] += 1
        watch.failures = watch.failures + 1 if read.outcome in _SILENT else 0
        self.budget.spent(read.cost + READING_OVERHEAD)
        watch.period = self._choose_period(watch, read.metrics)
        if read.metrics is not None:
            fresh_for = good_for(watch.period) * self._scale
            self._datastore.update_metrics(
                watch.id, _with_models(replace(read.metrics, good_for=fresh_for), watch.models)
            )

    def _choose_period(self, watch: Watch, metrics: EndpointMetrics | None) -> float:
        """Seconds until the next reading."""
        gauges = (metrics.waiting, metrics.running, metrics.kv_usage) if metrics else watch.gauges
        changed, watch.gauges = gauges != watch.gauges, gauges
        busy = self._has_work(watch.id) or (metrics is not None and (metrics.waiting or metrics.running) > 0)
        watch.quiet = not (busy or changed)
        spread = self._rng.uniform(0.9, 1.1)
        if not self._adaptive:
            return self._pace.moving * spread
        wish = next_period(self._pace, watch.wish, Seen(watch.failures, changed, busy))
        if not watch.failures and self._fed(watch.id, self._clock.now()):
            wish = self._pace.idle
        watch.wish = wish
        self.budget.want(watch.id, wish)
        return wish * self.budget.stretch() * spread

    def _has_work(self, endpoint_id: EndpointId) -> bool:
        return self._inflight is not None and self._inflight.load(endpoint_id).requests > 0

    def _judge(self, watch: Watch, read: Read) -> None:
        verdict = watch.rule.note(read.outcome)
        if verdict is None:
            return
        if self._datastore.set_health(watch.id, verdict, read.why):
            self._report_endpoints()
            if verdict:  # back again, perhaps as a new process with other models
                watch.look.wake()

    async def _sweep(self) -> None:
        """Look for endpoints that were idle and have been given work since: they are worth a reading now."""
        while self._running:
            await asyncio.sleep(self._pace.moving)
            for watch in self._watches.values():
                if watch.quiet and self._has_work(watch.id) and not self._fed(watch.id, self._clock.now()):
                    watch.quiet = False
                    watch.probe.wake()

    async def _read_models(self, watch: Watch, reader: PodReader) -> None:
        await asyncio.sleep(self._rng.uniform(0, self._pace.moving))
        while self._watches.get(watch.id) is watch:
            watch.look.begin()
            models = await reader.models()
            if models is not None and models != watch.models:
                watch.models = models
                if endpoint := self._datastore.get(watch.id):
                    self._datastore.update_metrics(watch.id, _with_models(endpoint.metrics, models))
            spread = self._rng.uniform(0.9, 1.1)
            await watch.look.sleep((MODELS_RETRY if models is None else MODELS_PERIOD) * spread)

    def _report_endpoints(self) -> None:
        self._observer.endpoints(len(self._datastore.all()), len(self._datastore.snapshot()))


def _with_models(metrics: EndpointMetrics, models: Models) -> EndpointMetrics:
    return replace(metrics, models=models.base, lora=replace(metrics.lora, available=models.adapters))
