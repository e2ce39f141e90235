"""Real servers on the loopback interface, each of which can be told to misbehave."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aiohttp import web

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.datalayer.scraper import Scraper
from pointsman.framework.observer import Observer
from pointsman.requestcontrol.ledger import Ledger, Reservation

PERIOD, TIMEOUT = 0.02, 0.15
BOMB = gzip.compress(bytes(16 * 1024 * 1024))


class Pod:
    """A model server of few talents. ``mode`` says how /metrics behaves."""

    def __init__(self) -> None:
        self.mode = "good"
        self.waiting, self.running = 1, 2
        self.moving = False
        """Each page says another number of waiting requests."""
        self.models: list[dict[str, str | None]] = [{"id": "base", "parent": None}, {"id": "lora", "parent": "base"}]
        self.models_mode = "good"
        self.hits = self.model_hits = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_get("/elsewhere", self.elsewhere)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        self.hits += 1
        match self.mode:
            case "hang":
                await asyncio.sleep(30)
            case "redirect":
                raise web.HTTPFound("/elsewhere")
            case "reset":
                assert request.transport is not None
                request.transport.abort()
            case "cut" | "chunked" | "slow":
                return await self.stream(request)
            case status if status.isdecimal():
                return web.Response(status=int(status), text="vllm:num_requests_waiting 5\n")
        return self.whole()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        cut = self.mode == "cut"
        response = web.StreamResponse(headers={"Content-Length": "1000"} if cut else {})
        if not cut:
            response.enable_chunked_encoding()
        await response.prepare(request)
        for line in self.page().splitlines(keepends=True):
            await response.write(line.encode())
            await asyncio.sleep(0.1 if self.mode == "slow" else 0)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    def whole(self) -> web.Response:
        match self.mode:
            case "garbage":
                return web.Response(body=b"\xff\x00<html>not metrics")
            case "huge":
                return web.Response(text="vllm:num_requests_waiting 5\n" + "#" * 5000)
            case "bomb":
                return web.Response(body=BOMB, headers={"Content-Encoding": "gzip"})
            case "close":
                return web.Response(text=self.page(), headers={"Connection": "close"})
        response = web.Response(text=self.page())
        if self.mode == "gzip":
            response.enable_compression(web.ContentCoding.gzip)
        return response

    def page(self) -> str:
        if self.moving:
            self.waiting += 1
        return f"vllm:num_requests_waiting {self.waiting}\nvllm:num_requests_running {self.running}\n"

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        self.model_hits += 1
        if self.models_mode == "hang":
            await asyncio.sleep(30)
        if self.models_mode == "garbage":
            return web.Response(text="<html>")
        return web.json_response({"object": "list", "data": self.models})

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="vllm:num_requests_waiting 99\n")


class Counts(Observer):
    def __init__(self) -> None:
        self.read = self.failed = 0
        self.kinds: Counter[str] = Counter()
        self.bytes = 0
        self.last = (0, 0)

    def scraped(self, endpoint: str, ok: bool) -> None:
        self.read += ok
        self.failed += not ok

    def scrape_took(self, kind: str, seconds: float, size: int) -> None:
        assert seconds >= 0
        self.kinds[kind] += 1
        self.bytes += size

    def endpoints(self, known: int, healthy: int) -> None:
        self.last = (known, healthy)


class Bench:
    def __init__(self, pods: list[Pod], period: float, *, adaptive: bool = True) -> None:
        self.pods, self.counts = pods, Counts()
        self.ledger = Ledger(SystemClock())
        self.store = Datastore(SystemClock())
        self.store.set_endpoints([spec(f"pod-{n}", pod.port) for n, pod in enumerate(pods)])
        self.scraper = Scraper(
            self.store,
            SystemClock(),
            self.counts,
            period=period,
            timeout=TIMEOUT,
            rng=random.Random(1),
            inflight=self.ledger,
            adaptive=adaptive,
            budget=10,
        )

    def endpoint(self, number: int = 0) -> Endpoint:
        endpoint = self.store.get(EndpointId(f"default/pod-{number}"))
        assert endpoint is not None
        return endpoint

    async def until(self, condition: Callable[[], bool], limit: float = 5.0) -> float:
        """Seconds it took until the condition held."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < limit, "did not happen in time"
            await asyncio.sleep(0.002)
        return time.monotonic() - start

    def pick(self, number: int = 0) -> Reservation:
        endpoint = EndpointId(f"default/pod-{number}")
        return self.ledger.reserve(endpoint, uncached_tokens=100, context_tokens=100, prefill_ms=1e6)

    async def readings(self, number: int) -> None:
        goal = self.counts.read + self.counts.failed + number
        await self.until(lambda: self.counts.read + self.counts.failed >= goal)


def spec(name: str, port: int) -> EndpointSpec:
    return EndpointSpec(name=name, address="127.0.0.1", port=port)


@asynccontextmanager
async def bench(count: int = 1, period: float = PERIOD, *, adaptive: bool = True) -> AsyncIterator[Bench]:
    pods = [Pod() for _ in range(count)]
    for pod in pods:
        await pod.start()
    it = Bench(pods, period, adaptive=adaptive)
    await it.scraper.start()
    try:
        yield it
    finally:
        await it.scraper.stop()
        for pod in pods:
            await pod.stop()
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith(("metrics ", "models ", "sweep"))]
        assert not left


def run(
    story: Callable[[Bench], Awaitable[None]], count: int = 1, period: float = PERIOD, *, adaptive: bool = True
) -> None:
    async def main() -> None:
        setting: AbstractAsyncContextManager[Bench] = bench(count, period, adaptive=adaptive)
        async with setting as it:
            await story(it)

    asyncio.run(main())
