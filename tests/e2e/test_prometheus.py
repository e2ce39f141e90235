"""A real Prometheus that scrapes simulated pods: ``pytest -m prometheus``, not part of the default run.

The binary is ``$PROMETHEUS`` or ``prometheus`` on the path (Debian: ``apt-get install prometheus``).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from pointsman.api.config import PrometheusConfig
from pointsman.api.endpoint import EndpointId, EndpointMetrics
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.datalayer.promql import PromqlSource
from pointsman.framework.observer import Observer
from pointsman.sim.profiles import DEFAULT_PROFILE, find_profile
from pointsman.sim.server import PodOptions, SimulatedPod

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(120)]

BUSY, IDLE = EndpointId("default/sim-0"), EndpointId("default/sim-1")


@asynccontextmanager
async def _pods(count: int) -> AsyncIterator[list[SimulatedPod]]:
    profile = find_profile(DEFAULT_PROFILE)
    pods = [SimulatedPod(PodOptions(name=f"sim-{i}", profile=profile, model="m")) for i in range(count)]
    try:
        for pod in pods:
            await pod.start()
        yield pods
    finally:
        for pod in pods:
            await pod.stop()


@asynccontextmanager
async def _prometheus(
    folder: Path, pods: Sequence[SimulatedPod]
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    binary = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
    assert binary, "set PROMETHEUS to the binary, or install it"
    targets = "".join(f"\n    - targets: ['127.0.0.1:{pod.port}']" for pod in pods)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs:\n- job_name: vllm\n  static_configs:{targets}\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = (
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    process = await asyncio.create_subprocess_exec(binary, *flags, "--log.level=error")
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _chat_without_end(port: int) -> None:
    async def one(session: aiohttp.ClientSession, number: int) -> None:
        body = {"model": "m", "prompt": f"{number} " * 300, "max_tokens": 100, "stream": True}
        while True:
            async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as response:
                await response.read()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one(session, number) for number in range(30)))


async def _until(seconds: float, condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)


def test_a_real_prometheus_feeds_the_endpoints_and_is_missed_when_it_dies(tmp_path: Path) -> None:
    async def main() -> None:
        async with _pods(2) as pods, _prometheus(tmp_path, pods) as (url, process):
            clock = SystemClock()
            datastore = Datastore(clock)
            datastore.set_endpoints(
                [EndpointSpec(name=f"sim-{i}", address="127.0.0.1", port=pod.port) for i, pod in enumerate(pods)]
            )
            promql = PromqlSource(datastore, clock, Observer())
            promql.use(
                PrometheusConfig(url=url, period_seconds=0.5, max_age_seconds=4, window="10s", selector='job="vllm"')
            )
            load = asyncio.create_task(_chat_without_end(pods[0].port))

            def metrics(endpoint: EndpointId) -> EndpointMetrics:
                found = datastore.get(endpoint)
                assert found is not None
                return found.metrics

            await _until(40, lambda: metrics(BUSY).ttft is not None and metrics(BUSY).running > 0)
            busy = metrics(BUSY)
            assert busy.source == "promql"
            assert 0 < busy.age(clock.now()) < 4
            assert 0 < busy.kv_usage < 1
            assert busy.itl is not None
            assert 0 < busy.itl.p50 <= busy.itl.p95 < 1
            assert busy.ttft is not None
            assert busy.ttft.count > 0
            assert (metrics(IDLE).running, metrics(IDLE).source) == (0, "promql")
            assert promql.status()["last_round"] == "ok"
            assert promql.status()["endpoints_fed"] == 2

            await pods[1].stop()  # Prometheus marks its series stale
            await _until(20, lambda: not promql.fresh(IDLE, clock.now()))
            assert promql.fresh(BUSY, clock.now())
            process.terminate()
            await process.wait()
            await _until(20, lambda: promql.counts["fell-back"] == 2)
            assert not promql.fresh(BUSY, clock.now())
            assert promql.status()["last_round"] == "failed"
            load.cancel()
            await promql.stop()

    asyncio.run(main())
