"""One pod's reader against a real server; time is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.clock import ManualClock
from pointsman.datalayer.pod_reader import LOADS_RETRY, PodReader
from pointsman.datalayer.probing import Outcome

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
VLLM = (CAPTURES / "metrics_a_loaded_0.txt").read_text()
SGLANG = "sglang:num_queue_reqs 1\nsglang:num_running_reqs 2\nsglang:token_usage 0.25\nsglang:page_size 16\n"
RANK = {"num_running_reqs": 30, "num_waiting_reqs": 20, "token_usage": 0.5, "max_total_num_tokens": 1000}


class Pod:
    def __init__(self, page: str) -> None:
        self.page = page
        self.loads: object = {"loads": [RANK]}
        self.loads_status = 200
        self.asked: list[str] = []
        self.seconds = 100.0
        self.clock = ManualClock(1000.0)

    def run(self, story: Callable[[PodReader], Awaitable[None]]) -> None:
        async def answer(request: web.Request) -> web.Response:
            self.asked.append(request.path)
            if request.path == "/metrics":
                return web.Response(text=self.page)
            return web.json_response(self.loads, status=self.loads_status)

        async def main() -> None:
            app = web.Application()
            app.router.add_get("/{path:.*}", answer)
            runner = web.AppRunner(app, shutdown_timeout=0.01)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            endpoint = Endpoint(EndpointId("default/pod"), "127.0.0.1", runner.addresses[0][1])
            reader = PodReader(endpoint, self.clock, 5.0, lambda: None, timer=lambda: self.seconds)
            try:
                await story(reader)
            finally:
                reader.close()
                await runner.cleanup()

        asyncio.run(main())


def test_a_captured_page() -> None:
    pod = Pod(VLLM)

    async def story(reader: PodReader) -> None:
        read = await reader.read()
        assert read.outcome is Outcome.READ
        assert read.metrics is not None
        assert (read.metrics.engine, read.metrics.source, read.metrics.updated) == ("vllm", "scrape", 1000.0)
        assert read.metrics.ttft is None, "quantiles need two looks"
        assert read.size == len(VLLM.encode())

    pod.run(story)


def test_histograms_are_read_now_and_then() -> None:
    def page(count: int) -> str:
        buckets = "".join(f'vllm:time_to_first_token_seconds_bucket{{le="{le}"}} {count}\n' for le in ("0.1", "+Inf"))
        return f"vllm:num_requests_waiting 1\n{buckets}vllm:time_to_first_token_seconds_sum 1\n"

    pod = Pod(page(10))

    async def story(reader: PodReader) -> None:
        counts = []
        for step in range(8):
            pod.page = page(10 + step)
            read = await reader.read()
            assert read.metrics is not None
            counts.append(read.metrics.ttft.count if read.metrics.ttft else None)
            pod.seconds += 2.5
        # Every second reading looks at them; between looks the last quantiles stay.
        assert counts == [None, None, 2, 2, 4, 4, 6, 6]

    pod.run(story)


class TestSglang:
    def test_is_asked_for_its_loads_between_pages(self) -> None:
        pod = Pod(SGLANG)

        async def story(reader: PodReader) -> None:
            first = await reader.read()
            assert first.metrics is not None
            assert (first.metrics.waiting, first.metrics.source) == (1, "scrape")
            pod.clock.advance(1)
            second = await reader.read()
            assert second.metrics is not None
            assert (second.metrics.waiting, second.metrics.running, second.metrics.kv_usage) == (20, 30, 0.5)
            assert (second.metrics.source, second.metrics.block_size, second.metrics.updated) == ("loads", 16, 1001.0)
            pod.seconds += 5.0
            third = await reader.read()
            assert third.metrics is not None
            assert third.metrics.source == "scrape"
            assert pod.asked == ["/metrics", "/v1/loads", "/metrics"]

        pod.run(story)

    def test_one_without_them_is_read_by_its_page(self) -> None:
        pod = Pod(SGLANG)
        pod.loads_status = 404

        async def story(reader: PodReader) -> None:
            for _ in range(4):
                read = await reader.read()
                assert read.metrics is not None
                assert read.metrics.source == "scrape"
            assert pod.asked.count("/v1/loads") == 1
            pod.loads_status = 200
            pod.seconds += LOADS_RETRY
            await reader.read()
            read = await reader.read()
            assert read.metrics is not None
            assert read.metrics.source == "loads"

        pod.run(story)

    def test_zeros_of_one_that_is_not_ready_are_not_believed(self) -> None:
        pod = Pod(SGLANG)
        pod.loads = {"loads": [msgspec.convert(RANK, dict) | {"max_total_num_tokens": 0}]}

        async def story(reader: PodReader) -> None:
            await reader.read()
            read = await reader.read()
            assert read.metrics is not None
            assert (read.metrics.waiting, read.metrics.source) == (1, "scrape")

        pod.run(story)
