"""CPU of reading the metrics of 100 pods: ours, and the two ways it could be done with what is on the shelf.

One server process answers for all pods (127.0.0.1 to 127.0.0.100) with pages as large as vLLM's, made beforehand by the
simulator. CPU is that of the reading process alone, kernel included. "At 50 ms" is llm-d's rate, without adapting;
"default" is what a picker does: adaptive, within its budget of 0.05 core. A full parser cannot keep up with such rates,
so it reads as fast as it can, and what one reading costs is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.connection
import os
from collections.abc import Awaitable, Callable
from random import Random
from time import perf_counter, process_time
from typing import Any, cast

import aiohttp
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.datalayer.metrics_page import parse_page
from pointsman.datalayer.scraper import Scraper
from pointsman.framework.observer import Observer
from pointsman.sim.metrics_page import MetricsPage
from pointsman.sim.profiles import PROFILES
from pointsman.sim.stats import EngineStats

VARIANTS = 16
WARM_UP = 1.0
MODELS = b'{"object":"list","data":[{"id":"m"}]}'


class Answers(asyncio.Protocol):
    """Answers with one page after another, or always with the first."""

    def __init__(self, pages: list[bytes], moving: int) -> None:
        self._pages, self._moving, self._next = pages, moving, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        pod = int(transport.get_extra_info("sockname")[0].rsplit(".", 1)[1])
        self._step = 1 if pod <= self._moving else 0

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /v1/models"):
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(MODELS) + MODELS)
            return
        self._next += self._step
        self._transport.write(self._pages[self._next % len(self._pages)])


def make_pages() -> list[bytes]:
    """Whole answers, whose gauges differ."""
    maker = MetricsPage("meta-llama/Llama-3.1-8B-Instruct", next(iter(PROFILES.values())), 1.7e9)
    pages = []
    for number in range(VARIANTS):
        stats = EngineStats()
        stats.waiting, stats.running = number, 2 * number
        page = maker.render(stats)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(page)}\r\n\r\n"
        pages.append(head.encode() + page)
    return pages


def serve(pipe: multiprocessing.connection.Connection, shares: list[int]) -> None:
    """Listen on one port per share of moving pods until killed."""

    async def main() -> None:
        pages = make_pages()
        loop = asyncio.get_running_loop()
        ports = []
        for moving in shares:
            server = await loop.create_server(lambda moving=moving: Answers(pages, moving), "0.0.0.0", 0)  # type: ignore[misc]
            ports.append(server.sockets[0].getsockname()[1])
        pipe.send((ports, len(pages[0])))
        await asyncio.Event().wait()

    uvloop.run(main())


class Count(Observer):
    """Counts readings."""

    def __init__(self) -> None:
        self.read = self.failed = 0

    def scraped(self, endpoint: str, ok: bool) -> None:
        self.read += ok
        self.failed += not ok


async def ours(port: int, pods: int, seconds: float, **options: Any) -> dict[str, float]:
    """The scraper as a picker runs it."""
    store, count = Datastore(SystemClock()), Count()
    store.set_endpoints([EndpointSpec(f"pod-{n}", f"127.0.0.{n}", port) for n in range(1, pods + 1)])
    scraper = Scraper(store, SystemClock(), count, rng=Random(1), timeout=5, **options)
    await scraper.start()
    await asyncio.sleep(WARM_UP if not options.get("adaptive", True) else 10 * WARM_UP)
    count.read = 0
    start, cpu = perf_counter(), process_time()
    await asyncio.sleep(seconds)
    took, spent, read = perf_counter() - start, process_time() - cpu, count.read
    await scraper.stop()
    return result(took, spent, read) | {"failed": count.failed}


async def shelf(port: int, pods: int, seconds: float, look: Callable[[str], object]) -> dict[str, float]:
    """aiohttp as fast as it goes, a few at a time, with some parser."""
    read = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        start, cpu = perf_counter(), process_time()

        async def loop(first: int) -> None:
            nonlocal read
            pod = first
            while perf_counter() - start < seconds:
                async with session.get(f"http://127.0.0.{pod % pods + 1}:{port}/metrics") as response:
                    look((await response.read()).decode())
                read += 1
                pod += 10

        await asyncio.gather(*[loop(n) for n in range(10)])
        return result(perf_counter() - start, process_time() - cpu, read)


def result(took: float, spent: float, read: int) -> dict[str, float]:
    return {"per_second": read / took, "core": spent / took, "micros": spent / max(1, read) * 1e6}


def full_parse(page: str) -> None:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            sample.value  # noqa: B018 - what a user of the parser would do


async def measure(ports: list[int], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    pods, seconds = options.pods, options.seconds
    runs: dict[str, Callable[[], Awaitable[dict[str, float]]]] = {
        "ours at 50 ms": lambda: ours(ports[0], pods, seconds, period=0.05, adaptive=False),
        "ours by default, all pods moving": lambda: ours(ports[0], pods, 2 * seconds),
        "ours by default, one in ten moving": lambda: ours(ports[1], pods, 2 * seconds),
        "aiohttp, our parser": lambda: shelf(ports[0], pods, seconds, parse_page),
        "aiohttp, full parser": lambda: shelf(ports[0], pods, seconds, full_parse),
    }
    return {name: await run() for name, run in runs.items()}


def show(found: dict[str, dict[str, float]], size: int, pods: int) -> None:
    full = found["aiohttp, full parser"]["micros"]
    print(f"{pods} pods, pages of {size:,} bytes, {os.cpu_count()} cores")
    print(f"{'':<36} {'readings/s':>10} {'core':>8} {'µs/reading':>11} {'full/this':>10}")
    for name, run in found.items():
        cells = f"{run['per_second']:>10.0f} {run['core']:>8.3f} {run['micros']:>11.0f}"
        print(f"{name:<36} {cells} {full / run['micros']:>9.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=100, help="at most 250")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run (twice that for the default)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, [options.pods, options.pods // 10]), daemon=True)
    server.start()
    try:
        ports, size = mine.recv()
        found = uvloop.run(measure(ports, options))
    finally:
        server.terminate()
        server.join()
    if options.json:
        print(json.dumps({"pods": options.pods, "page_bytes": size, "runs": found}))
    else:
        show(found, size, options.pods)


if __name__ == "__main__":
    main()
