"""A picker's sides: where its endpoints and its gauges come from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from aiohttp import ClientSession, web

from pointsman.app.discovery import EndpointOptions
from pointsman.app.picker import Picker, PickerOptions
from pointsman.app.transports import TransportOptions
from pointsman.observability.logging import setup


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def test_prometheus_of_the_configuration_is_asked_and_can_be_taken_out(tmp_path: Path) -> None:
    setup("error")
    policy = {"scorers": [{"type": "load-aware"}]}
    config, endpoints = tmp_path / "policy.yaml", tmp_path / "endpoints.yaml"
    config.write_text(yaml.safe_dump(policy | {"prometheus": {"url": "http://127.0.0.1:9", "periodSeconds": 0.1}}))
    endpoints.write_text("endpoints: [{name: a, address: 127.0.0.1, ports: [9, 10], drain: true}]")

    async def main() -> None:
        options = PickerOptions(
            endpoints=EndpointOptions(file=endpoints),
            config=str(config),
            transport=TransportOptions(port=0),
            admin_port=0,
        )
        picker = Picker(options)
        await picker.start()
        try:
            await _until(lambda: picker.promql.counts["failed"] > 1)
            async with ClientSession(f"http://127.0.0.1:{picker.admin_port}") as session:
                page = await (await session.get("/metrics")).text()
                pods = (await (await session.get("/pods")).json())["pods"]
            assert 'pointsman_prometheus_rounds_total{result="failed"}' in page
            assert 'pointsman_prometheus_endpoints{state="direct"} 2.0' in page
            assert [(pod["id"], pod["draining"]) for pod in pods] == [
                ("default/a-rank-0", True),
                ("default/a-rank-1", True),
            ]
            config.write_text(yaml.safe_dump(policy))
            await _until(lambda: picker.promql.status() == {})
        finally:
            await picker.stop(drain=0)

    asyncio.run(main())


@asynccontextmanager
async def _serving(path: str, answer: Callable[[web.Request], web.Response]) -> AsyncIterator[int]:
    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_get(path, handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def test_gauges_come_from_prometheus_and_directly_when_it_knows_nothing(tmp_path: Path) -> None:
    setup("error")
    readings: list[float] = []
    known = True

    def page(request: web.Request) -> web.Response:
        readings.append(time.monotonic())
        return web.Response(text="vllm:num_requests_waiting 1\nvllm:num_requests_running 1\n")

    def prometheus(request: web.Request) -> web.Response:
        query, now = request.query["query"], time.time()
        value = now if "timestamp" in query else 7 if "waiting" in query else None
        found = [] if value is None or not known else [{"metric": {"pod": "a"}, "value": [now, str(value)]}]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": found}})

    async def main() -> None:
        nonlocal known
        async with _serving("/metrics", page) as pod, _serving("/api/v1/query", prometheus) as port:
            options = {"url": f"http://127.0.0.1:{port}", "periodSeconds": 0.1, "maxAgeSeconds": 1.0}
            config, endpoints = tmp_path / "policy.yaml", tmp_path / "endpoints.yaml"
            config.write_text(yaml.safe_dump({"scorers": [{"type": "load-aware"}], "prometheus": options}))
            endpoints.write_text(yaml.safe_dump({"endpoints": [{"name": "a", "address": "127.0.0.1", "port": pod}]}))
            picker = Picker(
                PickerOptions(
                    endpoints=EndpointOptions(file=endpoints),
                    config=str(config),
                    transport=TransportOptions(port=0),
                    admin_port=0,
                )
            )
            await picker.start()
            try:

                def metrics() -> tuple[str, int]:
                    (endpoint,) = picker.datastore.all()
                    return endpoint.metrics.source, endpoint.metrics.waiting

                await _until(lambda: metrics() == ("promql", 7))
                known = False
                seen = len(readings)
                await _until(lambda: metrics()[1] == 1 and len(readings) > seen)
                assert picker.promql.counts["ok"] > 0
                await _until(lambda: picker.promql.counts["fell-back"] == 1)
                known = True
                await _until(lambda: metrics() == ("promql", 7))
            finally:
                await picker.stop(drain=0)

    asyncio.run(main())
