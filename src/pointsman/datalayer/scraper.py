"""Reads ``/metrics`` and ``/v1/models`` of every endpoint, and so learns which of them are alive.

Each endpoint has tasks of its own, so one that hangs delays nobody else.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import aiohttp
from msgspec.structs import replace

from pointsman.api.endpoint import Endpoint, EndpointId, EndpointMetrics
from pointsman.clock import Clock
from pointsman.datalayer.datastore import Changes, Datastore
from pointsman.datalayer.metrics_page import parse_metrics
from pointsman.datalayer.probing import HealthRule, Models, Outcome, parse_models
from pointsman.framework.observer import Observer

MAX_PAGE_BYTES = 4 * 1024 * 1024
MODELS_PERIOD = 10.0
"""Seconds between two looks at an endpoint's model list."""
MODELS_RETRY = 1.0
"""Seconds until the next look when one failed."""
TIMEOUTS_TO_UNHEALTHY = 5
MIN_PAUSE = 0.01
"""Seconds between two readings of one endpoint at the least, even when someone asks for one at once."""

_HEADERS = {
    "Accept": "text/plain; version=0.0.4, application/json;q=0.9",
    "Accept-Encoding": "identity",  # compressing would cost the engine's API server more than the bytes
    "User-Agent": "pointsman",
}


class _Watch:
    """One endpoint under watch."""

    def __init__(self, endpoint: Endpoint, rule: HealthRule) -> None:
        self.id: EndpointId = endpoint.id
        self.base_url = f"http://{endpoint.hostport}"
        self.rule = rule
        self.models = Models()
        self.probe_now = asyncio.Event()
        self.look_now = asyncio.Event()
        self.tasks: tuple[asyncio.Task[None], ...] = ()


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
    ) -> None:
        """Set up, without touching the network.

        Args:
            datastore: whose endpoints are read.
            clock: stamps the readings.
            observer: told of each reading and of the number of endpoints.
            period: real seconds between two readings of one endpoint; varied by a tenth, to spread the load.
            timeout: real seconds one reading may take.
            failures_to_unhealthy: failed connections in a row that make an endpoint unhealthy.
            rng: spreads the readings.
        """
        self._datastore, self._clock, self._observer = datastore, clock, observer
        self._period, self._timeout = period, timeout
        self._failures = failures_to_unhealthy
        self._rng = rng or random.Random()
        self._session: aiohttp.ClientSession | None = None
        self._watches: dict[EndpointId, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        datastore.on_changed(self._follow)

    async def start(self) -> None:
        """Begin to read every endpoint. Needs a running event loop; harmless when already started."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
            )
            self._follow(Changes(added=self._datastore.all()))

    async def stop(self) -> None:
        """End all readings and close all connections. Harmless when not started."""
        session, self._session = self._session, None
        if session is None:
            return
        for watch in list(self._watches.values()):
            self._unwatch(watch.id)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await session.close()

    def report_connect_failure(self, endpoint_id: EndpointId) -> None:
        """The proxy could not connect: probe at once, and believe it if the probe fails too."""
        if watch := self._watches.get(endpoint_id):
            watch.rule.suspect()
            watch.probe_now.set()

    def _follow(self, changes: Changes) -> None:
        if self._session is None:
            return
        for endpoint in changes.removed:
            self._unwatch(endpoint.id)
        for endpoint in changes.added:
            self._watch(endpoint, self._session)
        self._report_endpoints()

    def _watch(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        watch = _Watch(endpoint, HealthRule(self._failures, TIMEOUTS_TO_UNHEALTHY))
        watch.tasks = (
            asyncio.create_task(self._read_metrics(watch, session), name=f"metrics {endpoint.id}"),
            asyncio.create_task(self._read_models(watch, session), name=f"models {endpoint.id}"),
        )
        self._watches[endpoint.id] = watch
        for task in watch.tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _unwatch(self, endpoint_id: EndpointId) -> None:
        watch = self._watches.pop(endpoint_id, None)
        for task in watch.tasks if watch else ():
            task.cancel()

    async def _read_metrics(self, watch: _Watch, session: aiohttp.ClientSession) -> None:
        # The first readings are spread over a period, or all pods would be read at the same moment ever after.
        await asyncio.sleep(self._rng.uniform(0, self._period))
        loop = asyncio.get_running_loop()
        while self._watches.get(watch.id) is watch:
            watch.probe_now.clear()
            due = loop.time() + self._period * self._rng.uniform(0.9, 1.1)
            outcome, why = await self._probe(watch, session)
            self._observer.scraped(watch.id, outcome is Outcome.READ)
            self._judge(watch, outcome, why)
            await _sleep(due - loop.time(), watch.probe_now)

    async def _probe(self, watch: _Watch, session: aiohttp.ClientSession) -> tuple[Outcome, str]:
        try:
            return await self._read_page(watch, session)
        except TimeoutError:  # before the connection errors: a time-out while connecting is both
            return Outcome.TIMEOUT, f"/metrics did not answer within {self._timeout} s"
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            return Outcome.UNREACHABLE, f"no connection: {str(error) or type(error).__name__}"
        except Exception as error:  # noqa: BLE001 whatever a server sends, its endpoint stays under watch
            return Outcome.FAILING, f"/metrics cannot be read: {error!r}"

    async def _read_page(self, watch: _Watch, session: aiohttp.ClientSession) -> tuple[Outcome, str]:
        status, body = await _get(session, f"{watch.base_url}/metrics")
        if status != 200:
            return (Outcome.FAILING if status >= 500 else Outcome.UNUSABLE), f"/metrics answered {status}"
        if body is None:
            return Outcome.UNUSABLE, f"/metrics is larger than {MAX_PAGE_BYTES} bytes"
        metrics = parse_metrics(body.decode("utf-8", "replace"), self._clock.now())
        if metrics is None:
            return Outcome.UNUSABLE, "/metrics holds no metrics of a known engine"
        self._datastore.update_metrics(watch.id, _with_models(metrics, watch.models))
        return Outcome.READ, "/metrics was read"

    def _judge(self, watch: _Watch, outcome: Outcome, why: str) -> None:
        verdict = watch.rule.note(outcome)
        if verdict is None:
            return
        if self._datastore.set_health(watch.id, verdict, why):
            self._report_endpoints()
            if verdict:  # back again, perhaps as a new process with other models
                watch.look_now.set()

    async def _read_models(self, watch: _Watch, session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(self._rng.uniform(0, self._period))
        while self._watches.get(watch.id) is watch:
            watch.look_now.clear()
            models = await _fetch_models(session, watch.base_url)
            if models is not None and models != watch.models:
                watch.models = models
                if endpoint := self._datastore.get(watch.id):
                    self._datastore.update_metrics(watch.id, _with_models(endpoint.metrics, models))
            spread = self._rng.uniform(0.9, 1.1)
            await _sleep((MODELS_RETRY if models is None else MODELS_PERIOD) * spread, watch.look_now)

    def _report_endpoints(self) -> None:
        self._observer.endpoints(len(self._datastore.all()), len(self._datastore.snapshot()))


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes | None]:
    """Status and body; the body is None without a 200 and when it is larger than MAX_PAGE_BYTES."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            return response.status, None
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_PAGE_BYTES:
                return response.status, None
        return response.status, bytes(body)


async def _fetch_models(session: aiohttp.ClientSession, base_url: str) -> Models | None:
    try:
        _, body = await _get(session, f"{base_url}/v1/models")
    except Exception:  # noqa: BLE001 health is judged by /metrics; here a failure only means to try again
        return None
    return None if body is None else parse_models(body)


async def _sleep(seconds: float, wake: asyncio.Event) -> None:
    """Sleep until woken, but never less than a moment: reports of failures may come by the hundred."""
    await asyncio.sleep(MIN_PAUSE)
    # Not wait_for, which can swallow a cancellation in Python 3.11.
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds - MIN_PAUSE)):
            await wake.wait()


def _with_models(metrics: EndpointMetrics, models: Models) -> EndpointMetrics:
    return replace(metrics, models=models.base, lora=replace(metrics.lora, available=models.adapters))
