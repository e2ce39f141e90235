"""Simulated engines as the picker sees them: endpoints, gauges when they are read, KV-cache events when they come."""

from __future__ import annotations

from collections.abc import Iterable

from pointsman.api.endpoint import Endpoint, EndpointId, EndpointMetrics, LoraState
from pointsman.clock import ManualClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.kvcache.events import ALL_CLEARED, BlockRemoved, BlockStored, CacheEvent, EventBatch
from pointsman.kvcache.fleet import FleetIndex
from pointsman.kvcache.pod_view import PodView
from pointsman.lab.options import FleetOptions
from pointsman.sim.engine import Engine
from pointsman.sim.kv import BlocksRemoved, BlocksStored
from pointsman.sim.kv import CacheEvent as EngineEvent

NEVER = float("-inf")
PORT = 8000


class LabPod:
    """One engine and what the picker may know of it."""

    def __init__(self, number: int, options: FleetOptions) -> None:
        self.number = number
        self.id = EndpointId(f"default/pod-{number}")
        self.spec = EndpointSpec(f"pod-{number}", f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", PORT)
        self.engine = Engine(options.profile, max_loras=options.max_loras, events=options.events)
        self.engine.pace = options.speed(number)
        self.alive = True
        self.stepping = False
        self.step_began = self.step_ends = 0.0
        self.metrics_until = self.events_until = NEVER
        """The picker hears nothing before these times."""
        self.busy_seconds = 0.0
        self.view: PodView | None = None

    def gauges(self, now: float, models: frozenset[str]) -> EndpointMetrics:
        """What the engine's metrics page says."""
        engine, profile = self.engine, self.engine.profile
        engine.settle(now)
        stats = engine.stats
        lora = LoraState()
        if engine.slots.capacity:
            running = frozenset(filter(None, engine.slots.running().split(",")))
            lora = LoraState(engine.slots.capacity, running)
        return EndpointMetrics(
            waiting=stats.waiting,
            running=stats.running,
            kv_usage=stats.kv_usage,
            block_size=profile.block_size,
            num_blocks=profile.num_blocks,
            max_num_seqs=profile.max_num_seqs,
            lora=lora,
            prefix_queries=stats.prefix_queries,
            prefix_hits=stats.prefix_hits,
            models=models,
            engine="vllm",
            source="scrape",
            updated=now,
        )


class LabFleet:
    """The pods, and the picker's datastore and index fed by them.

    Args:
        options: how the fleet is made.
        clock: the run's.
    """

    def __init__(self, options: FleetOptions, clock: ManualClock) -> None:
        self.options, self.clock = options, clock
        self.datastore = Datastore(clock)
        self.index = FleetIndex(clock)
        self.index.follow(dict, self._confidence, lambda _: options.event_lag)
        self.pods: dict[EndpointId, LabPod] = {}
        self._next = 0
        self._models: frozenset[str] = frozenset()
        self.datastore.on_removed(lambda endpoint: self.index.forget(endpoint.id))
        for _ in range(options.pods):
            self.make_pod()
        self.publish()

    def make_pod(self) -> LabPod:
        """One more pod; the picker knows of it from :meth:`publish` on."""
        pod = LabPod(self._next, self.options)
        self._next += 1
        self.pods[pod.id] = pod
        return pod

    def publish(self) -> None:
        """Tell the picker which pods there are."""
        alive = [pod for pod in self.pods.values() if pod.alive]
        changes = self.datastore.set_endpoints([pod.spec for pod in alive])
        for endpoint in changes.added:
            pod = self.pods[endpoint.id]
            if self.options.events:
                pod.view = self.index.view(endpoint)
            self.datastore.update_metrics(endpoint.id, pod.gauges(self.clock.now(), self._models))

    def at(self, endpoint: Endpoint) -> LabPod:
        """The pod behind an endpoint."""
        return self.pods[endpoint.id]

    def scraped(self, pod: LabPod) -> None:
        """A metrics page was read."""
        now = self.clock.now()
        if pod.alive and now >= pod.metrics_until:
            self.datastore.update_metrics(pod.id, pod.gauges(now, self._models))

    def heard(self, pod: LabPod, events: list[EngineEvent]) -> None:
        """A batch of KV-cache events arrived."""
        if pod.view is not None and pod.alive and self.clock.now() >= pod.events_until:
            size = pod.engine.profile.block_size
            pod.view.apply(EventBatch(self.clock.wall(), list(decoded(events, size))))

    def _confidence(self, endpoint: EndpointId) -> float:
        pod = self.pods.get(endpoint)
        return 1.0 if pod is not None and pod.view is not None else 0.0


def decoded(events: Iterable[EngineEvent], block_size: int) -> Iterable[CacheEvent]:
    """An engine's events as the subscriber would read them from the wire."""
    for event in events:
        if isinstance(event, BlocksStored):
            extra = None
            if event.salt and event.parent is None:
                extra = [[event.salt], *[None] * (len(event.keys) - 1)]
            yield BlockStored(
                event.keys, event.parent, event.token_ids, block_size, event.adapter, event.medium, extra_keys=extra
            )
        elif isinstance(event, BlocksRemoved):
            yield BlockRemoved(event.keys, event.medium)
        else:
            yield ALL_CLEARED
