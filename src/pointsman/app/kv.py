"""Feeds the picker's index of KV caches: follows the endpoints, finds their event streams, listens to them.

It works only while the plan has a ``precise-prefix-cache-producer``; without one nothing is opened and nothing kept.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.app.kv_snapshot import SnapshotKeeper
from pointsman.app.sharing import Sharing, SharingOptions, sharing_options
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Changes, Datastore
from pointsman.datalayer.pod_facts import PodFacts
from pointsman.errors import StartupError
from pointsman.framework.plan import Plan
from pointsman.kvcache.fleet import FleetIndex
from pointsman.kvcache.following import StreamStatus
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.remembered import Remembered
from pointsman.kvcache.residency import CPU, DISK, GPU
from pointsman.kvcache.shared_writer import Facts
from pointsman.kvcache.snapshot import HolderSnapshot, pack
from pointsman.kvcache.sources import port_sources
from pointsman.kvcache.subscriber import Subscriber
from pointsman.observability.logging import logger
from pointsman.plugins.producers.precise_prefix_cache import KvEvents, PrecisePrefixCacheProducer
from pointsman.plugins.producers.token_producer import TokenProducer

PORT_LABELS = ("llm-d.ai/kv-events-port", "kv-events-port")
REPLAY_LABELS = ("llm-d.ai/kv-replay-port", "kv-replay-port")
TEND_PERIOD = 5.0
"""Seconds between two looks after streams that do not come back and copies that a pod's memory cannot hold."""


class KvFeed:
    """Owns the index and its streams. Made anywhere; used on one event loop."""

    def __init__(self, datastore: Datastore) -> None:
        self._clock = SystemClock()  # engines' events come in real time, however fast the engines are simulated
        self.fleet = FleetIndex(self._clock)
        self.remembered = self.fleet.remembered = Remembered(self._clock, self._sure)
        self.sharing = Sharing(self.remembered, self._facts_of, self._clock)
        self._shared: SharingOptions | None = None
        self._snapshot: SnapshotKeeper | None = None
        self._datastore = datastore
        self._log = logger("kv")
        self._events: KvEvents | None = None
        self._subscriber: Subscriber | None = None
        self._facts = PodFacts()
        self._names: dict[str, EndpointId] = {}  # as a bound address's topics call them
        self._many: set[EndpointId] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        datastore.on_removed(self._removed)
        datastore.on_changed(self._changed)

    def use(self, plan: Plan) -> None:
        """Listen as a plan wants it; needs a running event loop."""
        wanted, shared = kv_events(plan), sharing_options(plan)
        if wanted == self._events and shared == self._shared:
            return
        before, self._subscriber, self._events = self._subscriber, None, wanted
        if before is not None:
            self._spawn(self._close(before))
        self.fleet.reset()
        self._shared = shared
        self.sharing.use(shared)
        self.fleet.tap = self.sharing.tap
        if wanted is not None and not any(isinstance(plugin, TokenProducer) for plugin in plan.plugins.values()):
            self._log.warning("no token-producer: prefixes are known only of prompts that are sent as token ids")
        if wanted is not None:
            self._open(wanted)

    async def stop(self) -> None:
        """Close everything."""
        await self.sharing.stop()  # while it can still be said how well each endpoint was heard
        before, self._subscriber, self._events = self._subscriber, None, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if before is not None:
            await before.stop()
        await self._facts.close()
        if self._snapshot is not None:
            await self._snapshot.stop()

    async def keep_snapshot(self, path: Path, period: float) -> None:
        """Start from what a file tells, and write it every ``period`` seconds and at the end."""
        if self._events is None:
            self._log.warning("no precise-prefix-cache-producer: the snapshot is left alone", file=str(path))
            return
        self._snapshot = SnapshotKeeper(path, period, self._holders, self._clock)
        await self._snapshot.start(self.remembered)

    def _holders(self) -> Iterator[HolderSnapshot]:
        for endpoint in self._datastore.all():
            tiers = [pack(self.fleet.keys_of(endpoint.id, tier)) for tier in (GPU, CPU, DISK)]
            size = self.fleet.block_tokens(endpoint) or 0
            if any(tiers):
                yield HolderSnapshot(endpoint.id, 0, sorted(endpoint.metrics.models), size, tiers)

    @property
    def listening(self) -> bool:
        """Whether the plan in force wants events."""
        return self._events is not None

    def streams(self) -> list[StreamStatus]:
        """How every stream is, under the names of the endpoints."""
        if self._subscriber is None:
            return []
        found = self._subscriber.status()
        return [msgspec.structs.replace(one, pod=self._names.get(one.pod, one.pod)) for one in found]

    def _open(self, wanted: KvEvents) -> None:
        subscriber = self._subscriber = Subscriber(self._make_view, self._clock)
        subscriber.start()
        self.fleet.follow(self._status, self._confidence, self._lag)
        self.fleet.expect = self._expect
        if wanted.zmq_endpoint:
            try:
                at = subscriber.bind(wanted.zmq_endpoint, prefix=wanted.topic_filter)
                self._log.info("KV-cache events wanted", at=at)
            except StartupError as error:
                self._log.error("no KV-cache events, prefixes are guessed", error=str(error))
        self._changed(Changes(added=self._datastore.all()))
        self._spawn(self._tend(subscriber))

    def _changed(self, changes: Changes) -> None:
        if self._subscriber is None or self._events is None:
            return
        for endpoint in changes.added:
            for name in _names(endpoint):
                self._names.setdefault(name, endpoint.id)
            if self._connects:
                self._connect(endpoint, self._subscriber, self._events)

    def _removed(self, endpoint: Endpoint) -> None:
        if self._subscriber is not None:
            for name in {endpoint.id, *_names(endpoint)}:
                if self._names.get(name, endpoint.id) == endpoint.id:
                    self._subscriber.remove(name)
        self.fleet.forget(endpoint.id)
        self.remembered.drop(endpoint.id)
        self.sharing.remove(endpoint.id)
        self._many.discard(endpoint.id)
        self._names = {name: known for name, known in self._names.items() if known != endpoint.id}

    def _connect(self, endpoint: Endpoint, subscriber: Subscriber, wanted: KvEvents) -> None:
        discovery = wanted.pod_discovery_config
        port = _port(endpoint.labels, PORT_LABELS) or discovery.socket_port
        replay = _port(endpoint.labels, REPLAY_LABELS) or discovery.replay_socket_port
        if port:
            subscriber.add(endpoint.id, port_sources(endpoint.address, port, replay))
        else:
            subscriber.discover(endpoint.id, endpoint.address, partial(self._facts.event_sources, endpoint.hostport))

    def _make_view(self, pod: str, rank: int, _: str) -> PodView | None:
        endpoint = self._datastore.get(self._names.get(pod, EndpointId(pod)))
        if endpoint is None:
            return None
        if rank:
            # Which of its ranks will serve a request, an endpoint with several does not say.
            self._many.add(endpoint.id)
            return None
        return self.fleet.view(endpoint)

    def _stream_names(self, endpoint: EndpointId) -> list[str]:
        """What the subscriber may call an endpoint: its id when we connect, anything of it when it connects to us."""
        if self._events is None or not self._events.zmq_endpoint:
            return [endpoint]
        known = self._datastore.get(endpoint)
        return [name for name in _names(known) if self._names.get(name) == endpoint] if known is not None else []

    def _expect(self, endpoint: EndpointId) -> None:
        if self._subscriber is not None:
            for name in self._stream_names(endpoint):
                self._subscriber.expect(name)

    def _confidence(self, endpoint: EndpointId) -> float:
        if self._subscriber is None or endpoint in self._many:
            return 0.0
        return max((self._subscriber.confidence(name) for name in self._stream_names(endpoint)), default=0.0)

    def _sure(self, pod: str) -> float | None:
        """Confidence in an endpoint's own stream; None when there is no such endpoint."""
        endpoint = EndpointId(pod)
        return self._confidence(endpoint) if self._datastore.get(endpoint) is not None else None

    def _facts_of(self, pod: str, rank: int) -> Facts:
        """What is shared of an endpoint besides its blocks."""
        endpoint = self._datastore.get(EndpointId(pod))
        if endpoint is None or self._subscriber is None or rank:
            return Facts()
        size, models = self.fleet.block_tokens(endpoint) or 0, tuple(sorted(endpoint.metrics.models))
        at = max((self._subscriber.position(name) for name in self._stream_names(endpoint.id)), default=(-1, -math.inf))
        return Facts(self._confidence(endpoint.id), size, models, *at)

    def _lag(self, endpoint: EndpointId) -> float:
        names = self._stream_names(endpoint)
        return max((self._subscriber.lag(name) for name in names), default=0.0) if self._subscriber else 0.0

    def _status(self) -> Mapping[EndpointId, StreamStatus]:
        if self._subscriber is None:
            return {}
        found = {self._names.get(status.pod, EndpointId(status.pod)): status for status in self._subscriber.status()}
        return {endpoint: status for endpoint, status in found.items() if endpoint not in self._many}

    async def _tend(self, subscriber: Subscriber) -> None:
        """Ask pods anew that are away for long: a new process may publish elsewhere."""
        away: set[EndpointId] = set()
        while self._subscriber is subscriber:
            await asyncio.sleep(TEND_PERIOD)
            self.remembered.refresh()
            for endpoint in self._datastore.all():
                self.fleet.bound(endpoint)
            if not self._connects:
                continue
            before, away = away, {e for e, status in self._status().items() if not status.connected}
            for endpoint_id in before & away:
                self._again(endpoint_id, subscriber)
            away -= before

    def _again(self, endpoint_id: EndpointId, subscriber: Subscriber) -> None:
        endpoint = self._datastore.get(endpoint_id)
        if endpoint is not None and self._events is not None:
            subscriber.remove(endpoint_id)
            self._connect(endpoint, subscriber, self._events)

    @property
    def _connects(self) -> bool:
        """Whether it is us who connect to pods."""
        return self._events is not None and self._events.discover_pods and not self._events.zmq_endpoint

    async def _close(self, subscriber: Subscriber) -> None:
        await subscriber.stop()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def kv_events(plan: Plan) -> KvEvents | None:
    """How a plan wants events to come; None when it wants none."""
    for plugin in plan.plugins.values():
        if isinstance(plugin, PrecisePrefixCacheProducer):
            return plugin.params.kv_events_config
    return None


def _names(endpoint: Endpoint) -> tuple[str, ...]:
    """What topics may call an endpoint."""
    return (endpoint.id, endpoint.id.partition("/")[2], endpoint.hostport, endpoint.address)


def _port(labels: Mapping[str, str], names: tuple[str, ...]) -> int:
    """A port from the first label that gives one; 0 for none."""
    for name in names:
        text = labels.get(name, "")
        if text.isdecimal() and 0 < int(text) < 65_536:
            return int(text)
    return 0
