"""Both transports, grpcio's and our own, against a real gRPC client on loopback: they must not differ."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.errors import SaturatedError, StartupError
from pointsman.extproc import ext_proc_pb2 as pb
from pointsman.extproc import grpcio_server
from pointsman.extproc import server as own_server
from pointsman.extproc.codec import decode_response, encode_request
from pointsman.extproc.stream import Limits
from pointsman.extproc.wire import (
    Action,
    BodyMode,
    Chunk,
    Continue,
    Event,
    Immediate,
    RequestBody,
    RequestHeaders,
    ResponseHeaders,
    Route,
)

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
RECORD: Any = None  # a transport never looks at it


class Exchange:
    observe_body = False

    def __init__(self, decision: RoutingDecision) -> None:
        self.decision = decision
        self.ends: list[EndCause] = []
        self.ended = asyncio.Event()

    def served(self, hostport: str) -> None:
        pass

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        pass

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        pass

    def end(self, cause: EndCause) -> None:
        self.ends.append(cause)
        self.ended.set()


class Decider:
    def __init__(self, error: Exception | None = None) -> None:
        endpoint = Endpoint(EndpointId("ns/a"), "10.0.0.1", 8000)
        self.decision = RoutingDecision(InferenceRequest(id="r", model="m"), (endpoint,), RECORD)
        self.error = error
        self.exchanges: list[Exchange] = []

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange:
        if self.error is not None:
            raise self.error
        self.exchanges.append(Exchange(self.decision))
        return self.exchanges[-1]


def head(mode: BodyMode = BodyMode.BUFFERED, answer: BodyMode = BodyMode.NONE) -> RequestHeaders:
    return RequestHeaders(RequestHead({":method": "POST", ":path": "/"}), False, mode, answer)


BIG = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(params=[own_server, grpcio_server], ids=["pointsman", "grpcio"])
def transport(request: pytest.FixtureRequest) -> ModuleType:
    return request.param  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def running(transport: ModuleType, decider: Decider, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    server = transport.ExtProcServer(decider, transport.ServerOptions(port=0, **options))
    async with transport.serving(server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=BIG) as channel:
        yield server, channel


async def talk(channel: Any, events: Sequence[Event], answers: int) -> list[Action]:
    call = channel.stream_stream(PROCESS)()
    for event in events:
        await call.write(encode_request(event))
    actions = [decode_response(await call.read()) for _ in range(answers)]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK
    return actions


def test_one_request(transport: ModuleType) -> None:
    async def main() -> None:
        decider = Decider()
        async with running(transport, decider) as (_, channel):
            events: list[Event] = [head(), RequestBody(b"{}", end_of_stream=True), ResponseHeaders({":status": "200"})]
            assert await talk(channel, events, 3) == [
                Continue("request_headers"),
                Route("request_body", "10.0.0.1:8000"),
                Continue("response_headers"),
            ]
            assert decider.exchanges[0].ends == ["complete"]

    asyncio.run(main())


def test_large_messages_both_ways(transport: ModuleType) -> None:
    async def main() -> None:
        async with running(transport, Decider()) as (_, channel):
            body = b"x" * 6_000_000
            mode = BodyMode.FULL_DUPLEX_STREAMED
            route, *chunks = await talk(channel, [head(mode), RequestBody(body, end_of_stream=True)], 98)
            assert isinstance(route, Route)
            assert b"".join(chunk.data for chunk in chunks if isinstance(chunk, Chunk)) == body

    asyncio.run(main())


def test_refusal_ends_the_stream(transport: ModuleType) -> None:
    async def main() -> None:
        async with running(transport, Decider(SaturatedError("full"))) as (_, channel):
            call = channel.stream_stream(PROCESS)()
            for event in (head(), RequestBody(b"{}", end_of_stream=True)):
                await call.write(encode_request(event))
            _, action = [decode_response(await call.read()) for _ in range(2)]
            assert isinstance(action, Immediate)
            assert action.status == 429
            assert await call.read() is grpc.aio.EOF

    asyncio.run(main())


def test_limits_reach_the_streams(transport: ModuleType) -> None:
    async def main() -> None:
        async with running(transport, Decider(), limits=Limits(max_body_bytes=1)) as (_, channel):
            _, action = await talk(channel, [head(), RequestBody(b"{}", end_of_stream=True)], 2)
            assert isinstance(action, Immediate)
            assert action.status == 413

    asyncio.run(main())


def test_garbage_is_answered_and_reported(transport: ModuleType) -> None:
    async def main() -> None:
        seen: list[Exception] = []
        server = transport.ExtProcServer(Decider(), transport.ServerOptions(port=0), on_error=seen.append)
        async with transport.serving(server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.stream_stream(PROCESS)()
            await call.write(b"\xff\xff\xff")
            action = decode_response(await call.read())
            assert isinstance(action, Immediate)
            assert (action.status, len(seen)) == (500, 1)

    asyncio.run(main())


def test_a_proxy_that_leaves_before_the_answer(transport: ModuleType) -> None:
    async def main() -> None:
        decider = Decider()
        async with running(transport, decider) as (_, channel):
            call = channel.stream_stream(PROCESS)()
            for event in (head(), RequestBody(b"{}", end_of_stream=True)):
                await call.write(encode_request(event))
            await call.read()
            await call.read()
            call.cancel()
            async with asyncio.timeout(2):
                await decider.exchanges[0].ended.wait()
        assert decider.exchanges[0].ends == ["client-abort"]

    asyncio.run(main())


def test_many_streams_at_once(transport: ModuleType) -> None:
    async def main() -> None:
        decider = Decider()
        async with running(transport, decider) as (_, channel):
            events: list[Event] = [head(), RequestBody(b"{}", end_of_stream=True), ResponseHeaders({":status": "200"})]
            await asyncio.gather(*(talk(channel, events, 3) for _ in range(100)))
        assert [exchange.ends for exchange in decider.exchanges] == [["complete"]] * 100

    asyncio.run(main())


async def check(channel: Any, service: str) -> int:
    request = pb.HealthCheckRequest(service=service).SerializeToString()
    reply = await channel.unary_unary("/grpc.health.v1.Health/Check")(request)
    return int(pb.HealthCheckResponse.FromString(reply).status)


def test_health(transport: ModuleType) -> None:
    async def main() -> None:
        ready = [True]
        server = transport.ExtProcServer(
            Decider(), transport.ServerOptions(port=0, health_port=0), ready=lambda: ready[0]
        )
        async with transport.serving(server):
            for port in (server.port, server.health_port):
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    for name in ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"):
                        assert await check(channel, name) == 1
                    ready[0] = False
                    assert [await check(channel, name) for name in ("", "liveness", "readiness")] == [2, 1, 2]
                    ready[0] = True
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await check(channel, "other")
                    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
                    listed = await channel.unary_unary("/grpc.health.v1.Health/List")(b"")
                    assert len(pb.HealthListResponse.FromString(listed).statuses) == 4

    asyncio.run(main())


def test_watch_tells_changes(transport: ModuleType) -> None:
    async def main() -> None:
        ready = [True]
        server = transport.ExtProcServer(Decider(), transport.ServerOptions(port=0), ready=lambda: ready[0])
        async with transport.serving(server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            assert pb.HealthCheckResponse.FromString(await call.read()).status == 1
            ready[0] = False
            assert pb.HealthCheckResponse.FromString(await call.read()).status == 2
            call.cancel()

    asyncio.run(main())


def test_taken_port_is_said_clearly(transport: ModuleType) -> None:
    async def main(port: int) -> None:
        with pytest.raises(StartupError, match=rf"127\.0\.0\.1:{port}.*choose another"):
            await transport.ExtProcServer(Decider(), transport.ServerOptions(port=port)).start()
        with pytest.raises(StartupError, match=rf"127\.0\.0\.1:{port}"):
            await transport.ExtProcServer(Decider(), transport.ServerOptions(port=0, health_port=port)).start()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(main(taken.getsockname()[1]))


def test_drain_waits_then_cuts(transport: ModuleType) -> None:
    async def main() -> None:
        decider = Decider()
        async with running(transport, decider) as (server, channel):
            calls = [channel.stream_stream(PROCESS)() for _ in range(2)]
            for call in calls:
                for event in (head(), RequestBody(b"{}", end_of_stream=True), ResponseHeaders({":status": "200"})):
                    await call.write(encode_request(event))
                for _ in range(3):
                    await call.read()
            draining = asyncio.create_task(server.drain(0.5))
            await asyncio.sleep(0.1)
            assert not server.serving
            await calls[0].done_writing()
            assert await calls[0].read() is grpc.aio.EOF
            await draining
            assert sorted(exchange.ends[0] for exchange in decider.exchanges) == ["complete", "error"]
            assert all(len(exchange.ends) == 1 for exchange in decider.exchanges)

    asyncio.run(main())


def test_tls(transport: ModuleType, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost"]
    command = [openssl, *make, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)

    async def main(pair: tuple[bytes, bytes]) -> None:
        server = transport.ExtProcServer(Decider(), transport.ServerOptions(port=0, health_port=0, tls=pair))
        trust = grpc.ssl_channel_credentials(pair[1])
        async with transport.serving(server), grpc.aio.secure_channel(f"localhost:{server.port}", trust) as channel:
            assert await talk(channel, [head()], 1) == [Continue("request_headers")]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as plain:
                assert await check(plain, "readiness") == 1

    asyncio.run(main((key.read_bytes(), certificate.read_bytes())))
