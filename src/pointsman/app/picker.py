"""The picker: one process, one event loop, everything wired."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.app import alarm, memory
from pointsman.app.discovery import Discovery, EndpointOptions
from pointsman.app.kubernetes import Kubernetes
from pointsman.app.kv import KvFeed
from pointsman.app.pages import console_sources
from pointsman.app.plans import PlanKeeper
from pointsman.app.policies import PolicyKeeper
from pointsman.app.recording import RecordOptions, start_recording, tell_policy
from pointsman.app.remote_index import RemoteIndexKeeper
from pointsman.app.tokens import TokenKeeper
from pointsman.app.transports import TransportOptions, make_server
from pointsman.clock import Clock, ScaledClock, SystemClock
from pointsman.console.server import ConsoleServer
from pointsman.datalayer.datastore import Changes, Datastore, EndpointSpec
from pointsman.datalayer.promql import PromqlSource
from pointsman.datalayer.scraper import Scraper
from pointsman.errors import ConfigError
from pointsman.framework.file_watch import FileChange, FileWatcher
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import Handle
from pointsman.framework.watchdog import Watchdog
from pointsman.latency.model import LATENCY_PROFILES
from pointsman.observability.logging import logger
from pointsman.observability.metrics import Metrics
from pointsman.observability.record_sink import RecordSink
from pointsman.observability.records import RecordRing
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.planning import build_plan, make_cost

POLL_S = 0.5


class PickerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the picker runs. Times in seconds."""

    endpoints: EndpointOptions
    config: str = "default"
    policies: Path | None = None
    """File of InferenceObjective and InferenceModelRewrite manifests."""
    transport: TransportOptions = TransportOptions()
    admin_host: str = "127.0.0.1"
    admin_port: int = 9090
    scrape_period: float = 0.2
    """Between two readings of a pod whose gauges move; others are read less often."""
    scrape_budget: float = 0.05
    """Share of one core that reading pods may take."""
    drain: float = 30.0
    time_scale: float = 1.0
    """How many times faster than real time the engines run (simulated ones can)."""
    decisions: int = 10_000
    """Remembered for questions."""
    records: RecordOptions | None = None
    """Where to keep records for replay; None: nowhere."""
    kv_snapshot: Path | None = None
    """File that keeps the index of KV caches over a restart."""
    kv_snapshot_period: float = 60.0
    seed: int | None = None


class Picker:
    """Wires and runs a picker."""

    def __init__(self, options: PickerOptions) -> None:
        self.options = options
        self._log = logger("picker")
        self.clock: Clock = SystemClock() if options.time_scale == 1 else ScaledClock(options.time_scale)
        self.metrics = Metrics(RecordRing(options.decisions))
        self.datastore = Datastore(self.clock)
        self.ledger = Ledger(self.clock)
        rng = Random(options.seed)
        # The latency profile is part of the configuration; it is read once, because costs reserved by one profile
        # could not be compared with those of another. One that fits itself changes too slowly for that to matter.
        cost = make_cost(build_plan(options.config, _probe_handle(self.clock, self.ledger)))
        self.kv = KvFeed(self.datastore)
        self.handle = Handle(clock=self.clock, rng=rng, inflight=self.ledger, cost=cost, kv=self.kv.fleet)
        self.watchdog = Watchdog()
        self.plans = PlanKeeper(options.config, self.handle, self.metrics, self._use_plan, self.watchdog)
        self.promql = PromqlSource(
            self.datastore, self.clock, self.metrics, self._prometheus_failed, scale=options.time_scale
        )
        self.scraper = Scraper(
            self.datastore,
            self.clock,
            self.metrics,
            period=options.scrape_period,
            budget=options.scrape_budget,
            inflight=self.ledger,
            scale=options.time_scale,
            fed=self.promql.fresh,
        )
        self.director = Director(
            self.plans.plan,
            self.datastore,
            self.ledger,
            cost,
            self.clock,
            rng,
            self.metrics,
            self._request_ended,
            self.scraper.load_report,
        )
        self.tokens = TokenKeeper(self.director, self.datastore)
        self.indexers = RemoteIndexKeeper(self.director, self.metrics)
        self.datastore.on_removed(self.director.endpoint_removed)
        self.datastore.on_changed(self._endpoints_changed)
        self.server = make_server(self.director, options.transport, self.ready, self._stream_failed)
        self.console = ConsoleServer(console_sources(self), options.admin_host, options.admin_port)
        self.policies = PolicyKeeper(self.director, options.policies)
        use, refuse = self._use_endpoints, self._refuse_endpoints
        kube = options.endpoints.kube
        self.kubernetes = Kubernetes(kube, use, refuse, self.policies.use) if kube is not None else None
        if self.kubernetes is not None:
            self.metrics.registry.register(self.kubernetes.metrics)
        self._discovery = self.kubernetes or Discovery(options.endpoints, use, refuse, self.metrics)
        self._sink: RecordSink | None = None
        self._watcher: FileWatcher | None = None
        self._rewatching: asyncio.Task[None] | None = None
        self.admin_port = 0

    async def start(self) -> None:
        """Begin to serve; what was begun is ended again when a part cannot start.

        Raises:
            ConfigError: if the endpoints cannot be read.
            StartupError: if a port cannot be had.
        """
        try:
            await self._start_parts()
        except BaseException:
            await self.stop(drain=0)
            raise
        for note in self.plans.plan.notes:
            self._log.warning("configuration", note=note)
        alarm.install(self.watchdog)
        memory.settle()

    async def _start_parts(self) -> None:
        if self.options.records is not None:
            self._sink = start_recording(self.options.records, self.clock, self.metrics, self.plans.plan)
        await self.policies.start()
        await self._discovery.start()
        await self.tokens.use(self.plans.plan)
        self.indexers.use(self.plans.plan)
        self.kv.use(self.plans.plan)
        if self.options.kv_snapshot is not None:
            await self.kv.keep_snapshot(self.options.kv_snapshot, self.options.kv_snapshot_period)
        self.promql.use(self.plans.plan.config.prometheus)
        await self.scraper.start()
        await self._watch_plan()
        self.admin_port = await self.console.start()
        await self.server.start()

    async def stop(self, drain: float | None = None) -> None:
        """Drain and end: no new work, what is under way may finish within the drain time."""
        self.director.draining = True
        resign = [self.kubernetes.resign()] if self.kubernetes is not None else []
        await asyncio.gather(self.server.drain(self.options.drain if drain is None else drain), *resign)
        if self._watcher is not None:
            await self._watcher.stop()
        await self._discovery.stop()
        await self.policies.stop()
        await self.promql.stop()
        await self.scraper.stop()
        await self.kv.stop()
        await self.tokens.stop()
        await self.indexers.stop()
        await self.console.stop()
        if self._sink is not None:
            self.metrics.sink = None
            await asyncio.to_thread(self._sink.stop)

    async def serve_until(self, stopped: asyncio.Event) -> None:
        """Serve until ``stopped`` is set, then drain and end."""
        self._log.info(
            "serving",
            ext_proc=f"{self.options.transport.host}:{self.server.port}",
            transport=self.options.transport.transport,
            admin=f"http://{self.options.admin_host}:{self.admin_port}",
            config=self.plans.plan.source,
            endpoints=len(self.datastore.all()),
        )
        await stopped.wait()
        self._log.info("draining", seconds=self.options.drain)
        await self.stop()

    async def _watch_plan(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()
        self._watcher = FileWatcher(self.plans.files(), POLL_S, self._plan_changed) if self.plans.files() else None
        if self._watcher is not None:
            await self._watcher.start()

    def _plan_changed(self, change: FileChange) -> None:
        files = self.plans.files()
        if not self.plans.reload():
            self._log.error("configuration refused, the old one stays", error=str(self.plans.error))
        if self.plans.files() != files:
            self._rewatching = asyncio.get_running_loop().create_task(self._watch_plan())

    def _use_plan(self, plan: Plan) -> None:
        if self._sink is not None:
            tell_policy(self._sink, plan)
        self.director.replace_plan(plan)
        self.tokens.replace(plan)
        self.indexers.use(plan)
        self.kv.use(plan)
        self.promql.use(plan.config.prometheus)
        self._log.info("configuration in force", source=plan.source)

    def _use_endpoints(self, specs: Sequence[EndpointSpec]) -> None:
        changes = self.datastore.set_endpoints(specs)
        if changes:
            self._log.info("endpoints", added=len(changes.added), removed=len(changes.removed), total=len(specs))

    def _refuse_endpoints(self, error: ConfigError) -> None:
        self._log.error("endpoints refused, the old ones stay", error=str(error))

    def _prometheus_failed(self, problem: str) -> None:
        self._log.warning("Prometheus does not feed all endpoints, they are read directly", problem=problem)

    def _endpoints_changed(self, _: Changes) -> None:
        self.metrics.endpoints(len(self.datastore.all()), len(self.datastore.snapshot()))

    def _request_ended(self, endpoint: Endpoint, status: int | None) -> None:
        if status == 503:
            self.scraper.report_connect_failure(endpoint.id)

    def _stream_failed(self, error: Exception) -> None:
        self._log.error("request failed inside", error=f"{type(error).__name__}: {error}", exc_info=error)

    def ready(self) -> bool:
        """Whether there is anything to choose among; in Kubernetes, whether it is known that there is nothing."""
        return self.kubernetes.ready if self.kubernetes is not None else bool(self.datastore.snapshot())


def _probe_handle(clock: Clock, ledger: Ledger) -> Handle:
    """A handle to build a configuration with once, only to read which latency profile it names."""
    return Handle(clock=clock, rng=Random(0), inflight=ledger, cost=next(iter(LATENCY_PROFILES.values())))


def check_config(name: str) -> Plan:
    """Build a configuration without running it.

    Raises:
        ConfigError: if it cannot be used.
    """
    clock = SystemClock()
    return build_plan(name, _probe_handle(clock, Ledger(clock)))


def write_port_file(path: Path, picker: Picker) -> None:
    """Tell a parent process, atomically, which ports were bound."""
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode({"ext_proc": picker.server.port, "admin": picker.admin_port}))
    part.replace(path)
