"""The indexer put together: event streams into one index, and the HTTP service in front of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pointsman.app.discovery import Discovery, EndpointOptions
from pointsman.app.indexer_tokens import QueryReader
from pointsman.app.sharing import Sharing, SharingOptions
from pointsman.clock import Clock, SystemClock
from pointsman.console.indexer import IndexerServer, IndexerSources
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.pod_facts import PodFacts
from pointsman.errors import ConfigError, PointsmanError
from pointsman.kvcache import snapshot as disk
from pointsman.kvcache.events import BadEventsError
from pointsman.kvcache.events_json import decode_plain
from pointsman.kvcache.known_pods import KnownPods
from pointsman.kvcache.kv_index import DEFAULT_MAX_BLOCKS, KVIndex
from pointsman.kvcache.query import BadQueryError, answer
from pointsman.kvcache.shared_writer import Facts
from pointsman.kvcache.sources import port_sources
from pointsman.kvcache.subscriber import Subscriber
from pointsman.observability.index_metrics import IndexMetrics
from pointsman.observability.logging import logger
from pointsman.plugins.producers.token_producer import TokenProducerParams

PORT_LABEL = "kv-events-port"
MODEL_LABEL = "model-id"
REFRESH_S = 1.0


class IndexerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the command line can say."""

    endpoints: EndpointOptions = EndpointOptions()
    """Pods to connect to; may be empty."""
    bind: str | None = None
    """ZeroMQ address that pods connect to."""
    events_port: int | None = None
    """Of every pod, unless a label or ``/kv_event_sources`` says otherwise."""
    host: str = "127.0.0.1"
    port: int = 9095
    max_blocks: int = DEFAULT_MAX_BLOCKS
    snapshot: Path | None = None
    snapshot_period: float = 60.0
    shared: SharingOptions | None = None
    """With which other replicas the index is shared."""
    tokens: TokenProducerParams | None = None
    """How prompts are tokenized; None: only token ids and block keys can be asked about."""


class Indexer:
    """An index, what feeds it and what serves it; between start and stop."""

    def __init__(self, options: IndexerOptions, clock: Clock | None = None) -> None:
        self.options = options
        self.port = 0
        self.bound = ""
        """Address that pods connect to, when there is one."""
        self.counts: Counter[str] = Counter()
        self._clock = clock or SystemClock()
        self._log = logger("indexer")
        self.index = KVIndex(options.max_blocks)
        self.pods = KnownPods(self.index, self._sure)
        self._subscriber = Subscriber(self.pods.make_view, self._clock)
        self.sharing = Sharing(self.pods, self._shared_facts, self._clock)
        self._specs: dict[str, EndpointSpec] = {}
        self._discovery = Discovery(options.endpoints, self.use, self._refuse)
        self._facts = PodFacts()
        self._reader = QueryReader(options.tokens, self._any_pod)
        self._asked = 0
        metrics = IndexMetrics(self.index.stats, self._subscriber.status, self.pods.infos, self._all_counts)
        sources = IndexerSources(self.query, self.push, self.pods.infos, self.stats, metrics.render)
        self._server = IndexerServer(sources, options.host, options.port)
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()

    async def start(self) -> None:
        """Read the snapshot, follow the pods, serve.

        Raises:
            StartupError: if a port cannot be had.
            ConfigError: if the endpoints cannot be read.
        """
        if self.options.snapshot is not None:
            self._warm(self.options.snapshot)
        await self._reader.start()
        self.sharing.use(self.options.shared)
        self.pods.tap = self.sharing.tap
        self._subscriber.start()
        if self.options.bind is not None:
            self.bound = self._subscriber.bind(self.options.bind)
        if self.options.endpoints.urls or self.options.endpoints.file:
            await self._discovery.start()
        self.port = await self._server.start()
        self._tasks.append(asyncio.create_task(self._refresh()))
        if self.options.snapshot is not None:
            self._tasks.append(asyncio.create_task(self._save_often(self.options.snapshot)))
        self._log.info("serving", port=self.port, events=self.bound or None, pods=len(self._specs))

    async def stop(self) -> None:
        """End everything; the last snapshot is written first. Harmless after a start that failed."""
        self._ending.set()  # not cancelled: a file half written by a thread would meet the last one
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sharing.stop()
        await self._server.stop()
        await self._reader.stop()
        await self._discovery.stop()
        await self._subscriber.stop()
        await self._facts.close()
        if self.options.snapshot is not None and self.port:
            await self._save(self.options.snapshot)

    async def query(self, body: bytes) -> dict[str, Any]:
        """Answer a query's JSON.

        Raises:
            BadQueryError: if it cannot be understood, or nobody can tell its tokens.
            NoTokensError: if its prompt's tokens cannot be had in time.
        """
        try:
            query, wants_ids = msgspec.structs.astuple(await self._reader.read(body))
            found = answer(self.index, query, self.pods.names(), self.pods.places)
        except PointsmanError as error:
            self.counts["bad-query" if isinstance(error, BadQueryError) else "no-tokens"] += 1
            raise
        self.counts["query"] += 1
        length = {} if query.token_ids is None else {"prompt_tokens": len(query.token_ids)}
        return {"pods": found, **length, **({"token_ids": query.token_ids} if wants_ids else {})}

    def push(self, pod: str, model: str, body: bytes) -> dict[str, Any]:
        """Follow events that came over HTTP.

        Raises:
            BadQueryError: if they cannot be understood; nothing of them is used then.
        """
        try:
            batch = decode_plain(body, self._clock.wall())
            self.pods.push(pod, model, batch)
        except BadEventsError as error:
            self.counts["bad-push"] += 1
            raise BadQueryError(str(error)) from error
        except BadQueryError:
            self.counts["bad-push"] += 1
            raise
        self.counts["pushed-events"] += len(batch.events)
        return {"applied": len(batch.events), "skipped": batch.skipped}

    def stats(self) -> dict[str, Any]:
        """Size and use of the index, and how each stream is."""
        return {
            "index": self.index.stats(),
            "streams": self._subscriber.status(),
            "counts": self._all_counts(),
            "tokenizing": self._reader.stats(),
        }

    def use(self, specs: Sequence[EndpointSpec]) -> None:
        """Follow these pods and no others; those that connect to us are left alone."""
        wanted = {str(spec.id): spec for spec in specs}
        for pod, spec in list(self._specs.items()):
            if wanted.get(pod) != spec:
                del self._specs[pod]
                self._subscriber.remove(pod)
                self.pods.remove(pod)
                self.sharing.remove(pod)
        for pod, spec in wanted.items():
            if pod not in self._specs:
                self._specs[pod] = spec
                self.pods.describe(pod, ())
                self._subscriber.discover(pod, spec.address, partial(self._ask, pod, spec))

    async def _ask(self, pod: str, spec: EndpointSpec) -> Any:
        """Learn what the pod serves, then where it publishes; the subscriber asks again when that fails."""
        place = hostport(spec)
        label = spec.labels.get(MODEL_LABEL)
        names = [label] if label else sorted((await self._facts.models(place)).base)
        self.pods.describe(pod, names)
        port = _port(spec.labels.get(PORT_LABEL)) or self.options.events_port
        if port is None:
            return await self._facts.event_sources(place)
        return {"0": {"endpoint": port_sources(spec.address, port)[0].endpoint}}

    def _any_pod(self) -> str | None:
        """Address of the next pod that we connect to; those that connect to us do not say where they serve."""
        specs = list(self._specs.values())
        self._asked += 1
        return f"http://{hostport(specs[self._asked % len(specs)])}" if specs else None

    def _sure(self, pod: str, rank: int) -> float:
        return self._subscriber.confidence(pod, rank)

    def _shared_facts(self, pod: str, rank: int) -> Facts:
        return Facts(*self.pods.facts(pod, rank), *self._subscriber.position(pod, rank))

    def _all_counts(self) -> dict[str, int]:
        shared = Counter({f"shared-{kind}": count for kind, count in self.sharing.counts.items()})
        return dict(self.counts + self._subscriber.counts + shared)

    def _refuse(self, error: ConfigError) -> None:
        self._log.error("endpoints refused", problem=str(error))

    async def _refresh(self) -> None:
        while not await self._ends_within(REFRESH_S):
            self.pods.refresh(self._clock.now())

    # -- snapshot -------------------------------------------------------------------------------------------------

    def _warm(self, path: Path) -> None:
        try:
            found = disk.read(path)
        except disk.BadSnapshotError as error:
            self._log.warning("snapshot not used", problem=str(error))
            return
        if found is not None:
            blocks = self.pods.restore(found.holders, self._clock.now())
            self._log.info("snapshot read", blocks=blocks, age=round(self._clock.wall() - found.wall, 1))

    async def _save_often(self, path: Path) -> None:
        while not await self._ends_within(self.options.snapshot_period):
            await self._save(path)

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)
        return self._ending.is_set()

    async def _save(self, path: Path) -> None:
        holders = []
        for holder in self.pods.holders():
            holders.append(holder)
            await asyncio.sleep(0)  # queries go on between two pods
        snapshot = disk.Snapshot(self._clock.wall(), holders)
        try:
            await asyncio.get_running_loop().run_in_executor(None, disk.write, path, snapshot)
        except OSError as error:
            self.counts["snapshot-failed"] += 1
            self._log.error("snapshot not written", problem=str(error))


def hostport(spec: EndpointSpec) -> str:
    """``ip:port`` as addresses have it."""
    return f"[{spec.address}]:{spec.port}" if ":" in spec.address else f"{spec.address}:{spec.port}"


def _port(text: str | None) -> int | None:
    """A label's port; None when it is none."""
    return int(text) if text and text.isascii() and text.isdigit() and 0 < int(text) < 65_536 else None
