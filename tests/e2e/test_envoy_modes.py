"""A real Envoy, the real ext-proc server, two small upstreams and a decider that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import aiohttp
import pytest
from aiohttp import web

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.envoy.bootstrap import BootstrapOptions
from pointsman.envoy.process import EnvoyProcess
from pointsman.errors import SaturatedError
from pointsman.extproc import grpcio_server, server
from pointsman.extproc.stream import Limits

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

MIB = 1024 * 1024
DESTINATION = "x-gateway-destination-endpoint"
RECORD: Any = None  # a transport never looks at it
Play: TypeAlias = "Callable[[dict[str, Any], Callable[[Fleet], Coroutine[Any, Any, None]]], None]"
LEAN: dict[str, bool] = {}
DUPLEX = {"full_duplex": True}
DUPLEX_BOTH = {"full_duplex": True, "full_duplex_response": True}
modes = pytest.mark.parametrize("mode", [LEAN, DUPLEX, DUPLEX_BOTH], ids=["lean", "duplex", "duplex-both"])


class Exchange:
    def __init__(self, decision: RoutingDecision, observe: bool) -> None:
        self.decision, self.observe_body = decision, observe
        self.status, self.event_stream = 0, False
        self.chunks: list[bytes] = []
        self.ends: list[EndCause] = []
        self.ended = asyncio.Event()

    def served(self, hostport: str) -> None:
        pass

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        self.status, self.event_stream = status, event_stream

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        self.chunks.append(chunk)

    def end(self, cause: EndCause) -> None:
        self.ends.append(cause)
        self.ended.set()

    async def cause(self) -> EndCause:
        async with asyncio.timeout(5):
            await self.ended.wait()
        await asyncio.sleep(0.05)
        [cause] = self.ends
        return cause


class Decider:
    """Sends everything to ``targets``."""

    def __init__(self) -> None:
        self.targets: tuple[Endpoint, ...] = ()
        self.body: bytes | None = None
        self.observe = False
        self.error: Exception | None = None
        self.bodies: list[bytes] = []
        self.exchanges: list[Exchange] = []

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange:
        self.bodies.append(body)
        if self.error is not None:
            raise self.error
        request = InferenceRequest(id="r", model="m")
        decision = RoutingDecision(request, self.targets, RECORD, {"x-picked": "yes"}, self.body)
        self.exchanges.append(Exchange(decision, self.observe))
        return self.exchanges[-1]


def upstream(name: str) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/slow":
            await asyncio.sleep(5)
        if request.path != "/sse":
            head = {key: request.headers.get(key, "") for key in (DESTINATION, "x-picked")}
            return web.json_response({"name": name, "size": len(body), "body": body[:20].decode(), **head})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            for number in range(int(request.query.get("events", "3"))):
                await response.write(b"data: %d\n\n" % number)
                await asyncio.sleep(0.05)
        return response

    app = web.Application(client_max_size=64 * MIB)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


class Fleet:
    def __init__(self, decider: Decider, picker: Any, envoy: EnvoyProcess, http: aiohttp.ClientSession) -> None:
        self.decider, self.picker, self.envoy, self.http = decider, picker, envoy, http
        self.a, self.b = decider.targets
        self.dead = Endpoint(EndpointId("ns/dead"), "127.0.0.1", 1)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.envoy.port}{path}"

    async def post(self, data: bytes = b"{}", **headers: str) -> tuple[int, dict[str, Any]]:
        async with self.http.post(self.url("/v1"), data=io.BytesIO(data), headers=headers) as response:
            return response.status, (await response.json() if response.content_type == "application/json" else {})


@contextlib.asynccontextmanager
async def running(transport: ModuleType, workdir: Path, options: dict[str, Any]) -> AsyncIterator[Fleet]:
    async with contextlib.AsyncExitStack() as stack:
        decider = Decider()
        for name in ("a", "b"):
            runner = web.AppRunner(upstream(name), shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            decider.targets += (Endpoint(EndpointId(f"ns/{name}"), "127.0.0.1", runner.addresses[0][1]),)
        limits = Limits(max_body_bytes=4 * MIB)
        picker = transport.ExtProcServer(decider, transport.ServerOptions(port=0, limits=limits))
        await picker.start()
        stack.push_async_callback(picker.drain, 0)
        merged: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "admin_port": 0, "round_robin_port": 0}
        merged |= {"picker_port": picker.port, "message_timeout_ms": 2000, "max_body_bytes": 8 * MIB, **options}
        envoy = EnvoyProcess(BootstrapOptions(**merged), workdir, concurrency=1)
        await envoy.start(decider.targets, timeout=40)
        stack.push_async_callback(envoy.stop, 0)
        yield Fleet(decider, picker, envoy, await stack.enter_async_context(aiohttp.ClientSession()))


@pytest.fixture(params=[server, grpcio_server], ids=["pointsman", "grpcio"])
def play(tmp_path: Path, request: pytest.FixtureRequest) -> Play:
    """Runs a scene, once on each transport."""

    def run(options: dict[str, Any], scene: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with running(request.param, tmp_path, options) as fleet:
                await scene(fleet)

        asyncio.run(main())

    return run


@modes
def test_picks_steer(play: Play, mode: dict[str, Any]) -> None:
    async def scene(fleet: Fleet) -> None:
        for target in (fleet.a, fleet.b, fleet.b, fleet.a):
            fleet.decider.targets = (target,)
            status, seen = await fleet.post(b"{}", **{DESTINATION: "10.9.9.9:1"})
            assert (status, seen["name"]) == (200, target.id[-1])
            assert (seen[DESTINATION], seen["x-picked"]) == (target.hostport, "yes")
            assert await fleet.decider.exchanges[-1].cause() == "complete"

    play(mode, scene)


@modes
def test_bodies_of_all_sizes(play: Play, mode: dict[str, Any]) -> None:
    async def scene(fleet: Fleet) -> None:
        for size in (1, 61_999, 62_000, 62_001, 3 * MIB):
            assert (await fleet.post(b"x" * size))[1]["size"] == size
            assert fleet.decider.bodies[-1] == b"x" * size
        async with fleet.http.get(fleet.url("/v1/models")) as response:
            assert (await response.json())["name"] == "a"
        fleet.decider.body = b"changed"
        assert (await fleet.post(b"x" * 1000))[1]["body"] == "changed"

    play(mode, scene)


@modes
def test_slow_uploads(play: Play, mode: dict[str, Any]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 10
            await asyncio.sleep(0.1)

    async def scene(fleet: Fleet) -> None:
        fleet.decider.targets = (fleet.b,)
        async with fleet.http.post(fleet.url("/v1"), data=pieces()) as response:
            seen = await response.json()
        assert (seen["name"], seen["size"]) == ("b", 30)

    play(mode, scene)


@modes
def test_refusals_arrive_as_sent(play: Play, mode: dict[str, Any]) -> None:
    async def scene(fleet: Fleet) -> None:
        status, answer = await fleet.post(b"x" * (4 * MIB + 1))
        assert (status, answer["error"]["code"]) == (413, 413)
        fleet.decider.error = SaturatedError("all pods are busy")
        async with fleet.http.post(fleet.url("/v1"), data=b"{}") as response:
            assert response.status == 429
            assert response.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
            answer = await response.json()
            assert answer["error"]["message"] == "inference error: ResourceExhausted - all pods are busy"
        fleet.decider.error = KeyError("secret")
        status, answer = await fleet.post()
        assert (status, "secret" in str(answer)) == (500, False)

    play(mode, scene)


@modes
@pytest.mark.parametrize("observe", [False, True])
def test_events_pass_and_are_seen_when_asked_for(play: Play, mode: dict[str, Any], observe: bool) -> None:
    async def scene(fleet: Fleet) -> None:
        fleet.decider.observe = observe
        async with fleet.http.post(fleet.url("/sse"), data=b"{}") as response:
            text = await response.read()
        assert text == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        [exchange] = fleet.decider.exchanges
        assert await exchange.cause() == "complete"
        assert (exchange.status, exchange.event_stream) == (200, True)
        shown = mode == DUPLEX_BOTH or (observe and mode == LEAN)
        assert b"".join(exchange.chunks) == (text if shown else b"")

    play(mode, scene)


@modes
def test_clients_that_leave(play: Play, mode: dict[str, Any]) -> None:
    async def scene(fleet: Fleet) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), fleet.http.post(fleet.url("/slow"), data=b"{}"):
                pass
        assert await fleet.decider.exchanges[0].cause() == "client-abort"
        for observe in (True, False):
            fleet.decider.observe = observe
            async with fleet.http.post(fleet.url("/sse?events=100"), data=b"{}") as response:
                await response.content.readany()
                response.close()
            # a body that we are not shown cannot be told from a complete one
            shown = mode == DUPLEX_BOTH or (observe and mode == LEAN)
            assert await fleet.decider.exchanges[-1].cause() == ("client-abort" if shown else "complete")

    play(mode, scene)


@modes
def test_retries_take_the_next_of_the_list(play: Play, mode: dict[str, Any]) -> None:
    async def scene(fleet: Fleet) -> None:
        fleet.envoy.write_endpoints([fleet.a, fleet.b, fleet.dead])
        await asyncio.sleep(0.3)
        for target in (fleet.a, fleet.b, fleet.b, fleet.a):
            fleet.decider.targets = (fleet.dead, target)
            status, seen = await fleet.post()
            assert (status, seen["name"]) == (200, target.id[-1])

    play(mode, scene)


def test_endpoint_file_takes_effect(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        fleet.decider.targets = (fleet.b,)
        for endpoints, expected in (([fleet.a, fleet.b], "b"), ([fleet.a], "a"), ([], None), ([fleet.b], "b")):
            fleet.envoy.write_endpoints(endpoints)
            await asyncio.sleep(0.3)
            status, seen = await fleet.post()
            assert (status, seen.get("name")) == (200 if endpoints else 503, expected)

    play(LEAN, scene)


@pytest.mark.parametrize("fail_open", [True, False])
def test_without_a_picker(play: Play, fail_open: bool) -> None:
    async def scene(fleet: Fleet) -> None:
        assert (await fleet.post())[0] == 200
        await fleet.picker.drain(0)
        answers = [await fleet.post(b"{}", **{DESTINATION: fleet.a.hostport}) for _ in range(4)]
        assert [status for status, _ in answers] == [200 if fail_open else 500] * 4
        if fail_open:
            # round robin, whatever the client asks for
            assert {seen["name"] for _, seen in answers} == {"a", "b"}

    play({"fail_open": fail_open}, scene)


def test_round_robin_bypass_and_graceful_stop(play: Play) -> None:
    async def scene(fleet: Fleet) -> None:
        names = set()
        for _ in range(4):
            async with fleet.http.post(f"http://127.0.0.1:{fleet.envoy.round_robin_port}/", data=b"x") as response:
                names.add((await response.json())["name"])
        assert names == {"a", "b"}
        assert fleet.decider.exchanges == []
        async with fleet.http.post(fleet.url("/sse?events=20"), data=b"{}") as response:
            stopping = asyncio.create_task(fleet.envoy.stop(10))
            assert (await response.read()).count(b"data:") == 20
        await stopping
        assert (fleet.envoy.running, await fleet.envoy.wait()) == (False, 0)

    play(LEAN, scene)
