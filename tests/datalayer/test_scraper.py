"""Real servers on the loopback interface, each of which can be told to misbehave."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aiohttp import web

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.clock import SystemClock
from pointsman.datalayer import scraper as scraper_module
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.datalayer.scraper import Scraper
from pointsman.framework.observer import Observer

PERIOD, TIMEOUT = 0.02, 0.15


class Pod:
    """A model server of few talents. ``mode`` says how /metrics behaves."""

    def __init__(self) -> None:
        self.mode = "good"
        self.waiting = 1
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
            case "garbage":
                return web.Response(body=b"\xff\x00<html>not metrics")
            case "redirect":
                raise web.HTTPFound("/elsewhere")
            case "reset":
                assert request.transport is not None
                request.transport.abort()
            case "cut":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b"vllm:")
                assert request.transport is not None
                request.transport.abort()
                return response
            case "huge":
                return web.Response(text="vllm:num_requests_waiting 5\n" + "#" * 5000)
            case status if status.isdecimal():
                return web.Response(status=int(status), text="vllm:num_requests_waiting 5\n")
        return web.Response(text=f"vllm:num_requests_waiting {self.waiting}\nvllm:num_requests_running 2\n")

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
        self.last = (0, 0)

    def scraped(self, endpoint: str, ok: bool) -> None:
        self.read += ok
        self.failed += not ok

    def endpoints(self, known: int, healthy: int) -> None:
        self.last = (known, healthy)


class Bench:
    def __init__(self, pods: list[Pod], period: float) -> None:
        self.pods, self.counts = pods, Counts()
        self.store = Datastore(SystemClock())
        self.store.set_endpoints([spec(f"pod-{n}", pod.port) for n, pod in enumerate(pods)])
        self.scraper = Scraper(
            self.store, SystemClock(), self.counts, period=period, timeout=TIMEOUT, rng=random.Random(1)
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

    async def readings(self, number: int) -> None:
        goal = self.counts.read + self.counts.failed + number
        await self.until(lambda: self.counts.read + self.counts.failed >= goal)


def spec(name: str, port: int) -> EndpointSpec:
    return EndpointSpec(name=name, address="127.0.0.1", port=port)


@asynccontextmanager
async def bench(count: int = 1, period: float = PERIOD) -> AsyncIterator[Bench]:
    pods = [Pod() for _ in range(count)]
    for pod in pods:
        await pod.start()
    it = Bench(pods, period)
    await it.scraper.start()
    try:
        yield it
    finally:
        await it.scraper.stop()
        for pod in pods:
            await pod.stop()
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith(("metrics ", "models "))]
        assert not left


def run(story: Callable[[Bench], Awaitable[None]], count: int = 1, period: float = PERIOD) -> None:
    async def main() -> None:
        setting: AbstractAsyncContextManager[Bench] = bench(count, period)
        async with setting as it:
            await story(it)

    asyncio.run(main())


def test_metrics_and_models_arrive() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.endpoint().metrics.waiting == 1 and bool(it.endpoint().metrics.models))
        metrics = it.endpoint().metrics
        assert metrics.running == 2
        assert metrics.models == {"base"}
        assert metrics.lora.available == {"lora"}
        assert 0 <= metrics.age(time.monotonic()) < 1
        it.pods[0].waiting = 6
        await it.until(lambda: it.endpoint().metrics.waiting == 6)
        assert it.endpoint().metrics.lora.available == {"lora"}, "a new reading keeps the models"
        assert it.counts.failed == 0
        assert it.counts.last == (1, 1)

    run(story)


@pytest.mark.parametrize("mode", ["garbage", "500", "503", "404", "204", "redirect", "huge"])
def test_answers_of_the_wrong_kind_leave_the_old_values(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "MAX_PAGE_BYTES", 3000)

    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        it.pods[0].mode = mode
        await it.until(lambda: it.counts.failed >= 1)
        before = it.endpoint().metrics
        await it.readings(8)
        assert it.endpoint().metrics == before, "the age grows"
        assert it.endpoint().healthy
        it.pods[0].mode = "good"
        await it.until(lambda: it.endpoint().metrics.updated > before.updated)

    run(story)


@pytest.mark.parametrize("mode", ["reset", "cut"])
def test_broken_connections_make_unhealthy_and_the_first_success_heals(mode: str) -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        it.pods[0].mode = mode
        await it.until(lambda: not it.endpoint().healthy)
        assert it.store.snapshot() == ()
        assert it.counts.last == (1, 0)
        it.pods[0].mode = "good"
        await it.until(lambda: it.endpoint().healthy)
        assert it.counts.last == (1, 1)

    run(story)


def test_a_stopped_server_is_found_out_in_time_and_comes_back() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        await it.pods[0].stop()
        # At the real period, the promise is: well below a second.
        assert await it.until(lambda: not it.endpoint().healthy) < 1.0
        health = it.store.health(it.endpoint().id)
        assert health is not None
        assert health.why.startswith("no connection")
        it.pods[0].models = [{"id": "other", "parent": None}]
        await it.pods[0].start()
        await it.until(lambda: it.endpoint().healthy)
        await it.until(lambda: it.endpoint().metrics.models == {"other"}, 2)

    run(story, period=0.2)


def test_never_there() -> None:
    async def story(it: Bench) -> None:
        port = it.pods[0].port
        await it.pods[0].stop()
        it.store.set_endpoints([spec("other", port)])
        await it.until(lambda: not it.store.all()[0].healthy)

    run(story)


def test_one_time_out_is_forgiven_and_five_are_not() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        it.pods[0].mode = "hang"
        await it.until(lambda: it.counts.failed >= 3)
        assert it.endpoint().healthy
        await it.until(lambda: not it.endpoint().healthy)
        assert 5 <= it.counts.failed <= 6
        it.pods[0].mode = "good"
        await it.until(lambda: it.endpoint().healthy)

    run(story)


def test_a_hanging_pod_delays_nobody() -> None:
    async def story(it: Bench) -> None:
        for pod in it.pods[:3]:
            pod.mode = pod.models_mode = "hang"
        await it.until(lambda: it.pods[3].hits > 0)
        before = it.pods[3].hits
        await asyncio.sleep(0.5)
        assert it.pods[3].hits - before > 0.5 / PERIOD / 3, "a third of the nominal rate, on a busy machine"
        assert it.endpoint(3).metrics.age(time.monotonic()) < 0.2

    run(story, count=4)


def test_flapping() -> None:
    async def story(it: Bench) -> None:
        changes: list[bool] = []
        for _ in range(3):
            it.pods[0].mode = "reset"
            await it.until(lambda: not it.endpoint().healthy)
            changes.append(it.endpoint().healthy)
            it.pods[0].mode = "good"
            await it.until(lambda: it.endpoint().healthy)
            changes.append(it.endpoint().healthy)
        assert changes == [False, True] * 3

    run(story)


def test_models_failures_are_tolerated_and_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "MODELS_RETRY", 0.02)

    async def story(it: Bench) -> None:
        await it.until(lambda: bool(it.endpoint().metrics.models))
        it.store.set_endpoints([spec("pod-1", it.pods[1].port)])
        await it.until(lambda: it.pods[1].model_hits > 2)
        assert it.endpoint(1).healthy
        it.pods[1].models_mode = "good"
        await it.until(lambda: it.endpoint(1).metrics.models == {"base"})

    async def main() -> None:
        async with bench(2) as it:
            it.pods[1].models_mode = "garbage"
            await story(it)

    asyncio.run(main())


def test_endpoints_come_move_and_go() -> None:
    async def story(it: Bench) -> None:
        one, two = it.pods
        await it.until(lambda: one.hits > 0 and two.hits > 0)
        it.store.set_endpoints([spec("pod-0", two.port)])
        assert it.counts.last == (1, 1)
        two.waiting = 42
        await it.until(lambda: it.endpoint(0).metrics.waiting == 42)
        hits = one.hits
        await it.readings(5)
        assert one.hits <= hits + 1
        it.store.set_endpoints([])
        assert it.counts.last == (0, 0)

    run(story, count=2)


def test_a_reported_failure_brings_the_probe_forward_and_makes_it_decisive() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        endpoint = it.endpoint().id
        it.scraper.report_connect_failure(endpoint)
        await it.until(lambda: it.counts.read > 1, 1)
        assert it.endpoint().healthy, "hearsay alone is not enough"
        await it.pods[0].stop()
        it.scraper.report_connect_failure(endpoint)
        assert await it.until(lambda: not it.endpoint().healthy) < 1
        it.scraper.report_connect_failure(EndpointId("default/nobody"))

    run(story, period=0.9)


def test_reports_by_the_hundred_do_not_flood() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        hits = it.pods[0].hits
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            it.scraper.report_connect_failure(it.endpoint().id)
            await asyncio.sleep(0.0005)
        assert 2 < it.pods[0].hits - hits <= 0.3 / scraper_module.MIN_PAUSE + 2

    run(story, period=0.9)


def test_something_that_is_not_http_proves_nothing() -> None:
    async def main() -> None:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\x15\x03\x01\x00\x02\x02\x50 TLS says no\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(shout, "127.0.0.1", 0)
        it = Bench([], PERIOD)
        it.store.set_endpoints([spec("pod-0", server.sockets[0].getsockname()[1])])
        await it.scraper.start()
        await it.until(lambda: it.counts.failed > 4)
        assert it.endpoint().healthy
        health = it.store.health(it.endpoint().id)
        assert health is not None
        assert health.why == "not probed yet"
        await it.scraper.stop()
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_start_and_stop_are_idempotent_and_repeatable() -> None:
    async def story(it: Bench) -> None:
        await it.scraper.start()
        await it.until(lambda: it.counts.read > 0)
        await it.scraper.stop()
        await it.scraper.stop()
        it.store.set_endpoints([spec("pod-0", it.pods[0].port), spec("pod-1", it.pods[0].port)])
        reads = it.counts.read
        await asyncio.sleep(3 * PERIOD)
        assert it.counts.read == reads
        await it.scraper.start()
        await it.until(lambda: it.counts.read > reads)
        it.pods[0].mode = "hang"
        await asyncio.sleep(2 * PERIOD)

    run(story)


def test_many_endpoints_stop_cleanly() -> None:
    async def story(it: Bench) -> None:
        port = it.pods[0].port
        it.store.set_endpoints([EndpointSpec(name=f"p{n}", address=f"127.0.0.{n}", port=port) for n in range(1, 100)])
        await asyncio.sleep(0.2)

    run(story)
