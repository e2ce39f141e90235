"""The Endpoint Picker contract through a real Envoy: real plans, echo backends, both transports.

docs/contract.md says which case of llm-d and of the gateway conformance suite each test stands for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.e2e.stack import until
from tests.requestcontrol.rig import Rig, write_config

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.app import alarm
from pointsman.envoy.bootstrap import BootstrapOptions
from pointsman.envoy.process import EnvoyProcess
from pointsman.extproc import grpcio_server, server
from pointsman.extproc.stream import Limits
from pointsman.framework.watchdog import Watchdog

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

CHAT = "/v1/chat/completions"
SELECT = "test-epp-endpoint-selection"
SERVED = "x-conformance-test-served-endpoint"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
LEAN: dict[str, Any] = {}
DUPLEX = {"full_duplex": True}
DUPLEX_BOTH = {"full_duplex": True, "full_duplex_response": True}
modes = pytest.mark.parametrize("mode", [LEAN, DUPLEX, DUPLEX_BOTH], ids=["lean", "duplex", "duplex-both"])
transports = pytest.mark.parametrize("transport", [server, grpcio_server], ids=["own", "grpcio"])
Scene = Callable[["Stage"], Coroutine[Any, Any, None]]


def echo(address: str) -> web.Application:
    """A model server that says who it is and what it got."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
        model = json.loads(body).get("model", "") if body.startswith(b"{") else ""
        said = {"pod": address, "httpPort": port, "model": model, "headers": dict(request.headers), "size": len(body)}
        if "stream" not in request.query:
            return web.json_response(said)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        text = b"".join(b'data: {"n":%d,"model":"%s"}\n\n' % (n, model.encode()) for n in range(3))
        for start in range(0, len(text), 7):
            await response.write(text[start : start + 7])
            await asyncio.sleep(0.002)
        return response

    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


class Stage:
    """Pods on loopback addresses of their own, a picker and an Envoy."""

    def __init__(self, rig: Rig, picker: Any, envoy: EnvoyProcess, http: aiohttp.ClientSession) -> None:
        self.rig, self.picker, self.envoy, self.http = rig, picker, envoy, http

    @property
    def pods(self) -> tuple[Endpoint, ...]:
        return self.rig.endpoints

    async def ask(
        self, method: str = "POST", path: str = CHAT, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and what the echo (or the refusal) says."""
        if method == "POST" and body is None:
            body = HELLO
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.envoy.port}{path}"
        async with self.http.request(method, url, data=data, headers=named) as response:
            text = await response.read()
            said = json.loads(text) if response.content_type == "application/json" else {"text": text.decode()}
            return response.status, {k.lower(): v for k, v in response.headers.items()}, said

    async def idle(self) -> bool:
        """Whether every reservation was released."""
        return self.rig.ledger.totals()[0] == 0

    async def landed(self, count: int, **headers: str) -> set[tuple[str, int]]:
        """Where so many requests, ten at a time, are served; none may fail."""
        gate = asyncio.Semaphore(10)

        async def one() -> tuple[str, int]:
            async with gate:
                status, _, said = await self.ask(**headers)
                assert status == 200, said
                return said["pod"], said["httpPort"]

        return set(await asyncio.gather(*(one() for _ in range(count))))


SLEEPY = """
import time
from pointsman.framework.plugin import *

class NoParams(Params, frozen=True):
    pass

@register("sleepy-scorer")
class SleepyScorer(Scorer[NoParams]):
    def score(self, request, endpoints, state):
        time.sleep(30 if "x-sleep" in request.headers else 0)
        return [1.0] * len(endpoints)
"""


@contextlib.asynccontextmanager
async def staged(
    folder: Path, transport: ModuleType, options: dict[str, Any], pods: int, ranks: int
) -> AsyncIterator[Stage]:
    async with contextlib.AsyncExitStack() as stack:
        watchdog = Watchdog()
        alarm.install(watchdog)
        stack.callback(alarm.uninstall, watchdog)
        endpoints: list[Endpoint] = []
        for pod in range(pods):
            address = f"127.0.0.{pod + 11}"
            for rank in range(ranks):
                runner = web.AppRunner(echo(address), shutdown_timeout=0.1)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, address, 0).start()
                name = EndpointId(f"ns/pod-{pod}-rank-{rank}")
                endpoints.append(Endpoint(name, address, runner.addresses[0][1], slot=len(endpoints)))
        profile = ["header-based-testing-filter", "sleepy-scorer", "queue-scorer"]
        also = ["destination-endpoint-served-verifier"]
        config = write_config(folder, profile, also=also, code=SLEEPY, pickBudget=50)
        rig = Rig(config, endpoints, watchdog)
        picker = transport.ExtProcServer(
            rig.director, transport.ServerOptions(port=0, limits=Limits(max_body_bytes=2**22))
        )
        await picker.start()
        stack.push_async_callback(picker.drain, 0)
        merged: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "admin_port": 0, "message_timeout_ms": 2000}
        merged |= {"picker_port": picker.port, "max_body_bytes": 2**23, **options}
        envoy = EnvoyProcess(BootstrapOptions(**merged), folder, concurrency=1)
        await envoy.start(endpoints, timeout=40)
        stack.push_async_callback(envoy.stop, 0)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Stage(rig, picker, envoy, http)


def play(
    folder: Path, transport: ModuleType, options: dict[str, Any], scene: Scene, pods: int = 3, ranks: int = 1
) -> None:
    async def main() -> None:
        async with staged(folder, transport, options, pods, ranks) as stage:
            await scene(stage)
            await until(stage.idle, 5)

    asyncio.run(main())


# ---- the gateway conformance suite


@transports
@modes
def test_following_the_pick(tmp_path: Path, mode: dict[str, Any], transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        for chosen in ([2], [0, 1], [0, 1, 2]):
            allowed = {(stage.pods[i].address, stage.pods[i].port) for i in chosen}
            header = ",".join(stage.pods[i].address for i in chosen)
            landed = await stage.landed(100, **{SELECT: header})
            assert landed <= allowed
            assert len(landed) == len(allowed)

    play(tmp_path, transport, mode, scene)


@transports
def test_data_parallel_ranks(tmp_path: Path, transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        by_pod: dict[str, list[int]] = {}
        for pod in stage.pods:
            by_pod.setdefault(pod.address, []).append(pod.port)
        (a, a_ports), (b, b_ports), (c, c_ports) = by_pod.items()
        cases: Sequence[tuple[list[str], set[tuple[str, int]]]] = (
            ([a], {(a, port) for port in a_ports}),
            ([a, f"{b}:{b_ports[1]}"], {(a, port) for port in a_ports} | {(b, b_ports[1])}),
            (
                [a, b, f"{c}:{c_ports[0]}", f"{c}:{c_ports[2]}"],
                {(p, port) for p in (a, b) for port in by_pod[p]} | {(c, c_ports[0]), (c, c_ports[2])},
            ),
        )
        for header, allowed in cases:
            assert await stage.landed(100, **{SELECT: ",".join(header)}) == allowed

    play(tmp_path, transport, LEAN, scene, ranks=3)


@transports
@modes
def test_destination_endpoint_served(tmp_path: Path, mode: dict[str, Any], transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        for pod in stage.pods:
            status, headers, said = await stage.ask(**{SELECT: pod.hostport})
            assert (status, said["httpPort"], headers[SERVED]) == (200, pod.port, pod.hostport)
            assert said["headers"]["x-gateway-destination-endpoint"] == pod.hostport

    play(tmp_path, transport, mode, scene)


@transports
@modes
def test_requests_without_a_body(tmp_path: Path, mode: dict[str, Any], transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(3):
            assert (await stage.ask("GET", "/v1/models"))[0] == 200
        status, _, said = await stage.ask("GET", "/v1/models", **{SELECT: stage.pods[2].address})
        assert (status, said["httpPort"]) == (200, stage.pods[2].port)

    play(tmp_path, transport, mode, scene)


@transports
@modes
def test_foreign_addresses_get_nothing(tmp_path: Path, mode: dict[str, Any], transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        status, headers, said = await stage.ask(**{SELECT: "192.0.2.1,10.9.9.9:80"})
        assert (status, headers["x-llm-d-request-dropped-reason"]) == (503, "rejected-no-endpoints")
        assert said["error"]["code"] == 503
        pod = stage.pods[1]
        assert (await stage.ask(**{SELECT: f"192.0.2.1,{pod.hostport}"}))[2]["httpPort"] == pod.port
        liar = {"x-gateway-destination-endpoint": "192.0.2.1:80", "x-prefiller-host-port": "192.0.2.1:80"}
        status, _, said = await stage.ask(**liar, **{SELECT: pod.hostport})
        assert (status, said["httpPort"]) == (200, pod.port)
        assert said["headers"]["x-gateway-destination-endpoint"] == pod.hostport
        assert "x-prefiller-host-port" not in said["headers"]

    play(tmp_path, transport, mode, scene)


@transports
@pytest.mark.parametrize("fail_open", [True, False], ids=["open", "close"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_pools_own_picker_is_gone(tmp_path: Path, fail_open: bool, method: str, transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        pod = stage.pods[1]
        status, _, said = await stage.ask(method, **{SELECT: pod.hostport})
        assert (status, said["httpPort"]) == (200, pod.port)
        await stage.picker.drain(0)
        answers = [await stage.ask(method) for _ in range(6)]
        if fail_open:
            assert [status for status, _, _ in answers] == [200] * 6
            assert {said["httpPort"] for _, _, said in answers} == {pod.port for pod in stage.pods}
        else:
            assert all(500 <= status < 600 for status, _, _ in answers)

    play(tmp_path, transport, {"fail_open": fail_open}, scene)


# ---- what is ours to keep


@transports
def test_the_ledger_follows_a_retry(tmp_path: Path, transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        good, other = stage.pods[:2]
        dead = Endpoint(EndpointId("ns/dead"), "127.0.0.1", 1, slot=9)
        stage.envoy.write_endpoints([good, dead])
        await asyncio.sleep(0.3)
        stage.rig.endpoints = (dead, good)
        for _ in range(4):
            status, headers, said = await stage.ask(**{SELECT: f"{dead.hostport},{good.hostport}"})
            assert (status, headers[SERVED], said["httpPort"]) == (200, good.hostport, good.port)
        records = [record.view() for record in stage.rig.metrics.records.last(4)]
        assert {record["served"] for record in records} == {good.hostport}
        assert {end for end, _ in stage.rig.ends} == {good.id}
        assert other.id not in {end for end, _ in stage.rig.ends}

    play(tmp_path, transport, LEAN, scene)


@transports
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("mode", [LEAN, DUPLEX_BOTH], ids=["lean", "duplex-both"])
def test_a_model_by_another_name(tmp_path: Path, mode: dict[str, Any], stream: bool, transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        path = CHAT + ("?stream=1" if stream else "")
        for name in ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"):
            status, headers, said = await stage.ask("POST", path, **{name: "a-much-longer-name"})
            assert status == 200
            assert "content-length" not in headers
            if stream:
                assert said["text"] == "".join(f'data: {{"n":{n},"model":"m"}}\n\n' for n in range(3))
            else:
                assert said["model"] == "m"
                assert said["size"] == len(json.dumps(HELLO)) + len("a-much-longer-name") - 1
        record = stage.rig.metrics.records.last(1)[0]
        assert record.model == "m"

    play(tmp_path, transport, mode, scene)


@transports
def test_the_servers_name_stays_without_the_body(tmp_path: Path, transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        status, _, said = await stage.ask(x_llm_d_model_name_rewrite="other")
        assert (status, said["model"]) == (200, "other")

    play(tmp_path, transport, DUPLEX, scene)


@transports
@modes
def test_refusals(tmp_path: Path, mode: dict[str, Any], transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        status, _, said = await stage.ask(body=b"{no json")
        assert (status, said["error"]["code"]) == (400, 400)
        status, _, said = await stage.ask(body={"messages": HELLO["messages"]})
        assert (status, said["error"]["message"]) == (
            400,
            "inference error: BadRequest - model not found in request body",
        )
        stage.rig.endpoints = ()
        for method in ("GET", "POST"):
            status, headers, said = await stage.ask(method)
            assert (status, headers["x-llm-d-request-dropped-reason"]) == (503, "rejected-no-endpoints")
            text = "failed to find endpoint candidates for serving the request"
            assert said["error"]["message"] == f"inference error: ServiceUnavailable - {text}"

    play(tmp_path, transport, mode, scene)


@transports
@pytest.mark.parametrize("mode", [LEAN, DUPLEX_BOTH], ids=["lean", "duplex-both"])
def test_a_plugin_that_hangs(tmp_path: Path, mode: dict[str, Any], transport: ModuleType) -> None:
    async def scene(stage: Stage) -> None:
        pod = stage.pods[1]
        for _ in range(5):
            status, _, said = await stage.ask(x_sleep="1", **{SELECT: pod.hostport})
            assert (status, said["httpPort"]) == (200, pod.port)
            assert said["headers"]["x-gateway-destination-endpoint"] == pod.hostport, "not failed open: picked"
        assert stage.rig.count("degraded_total", kind="watchdog") == 3
        assert stage.rig.count("degraded_total", kind="benched") == 2

    play(tmp_path, transport, {"message_timeout_ms": 1000, **mode}, scene)
