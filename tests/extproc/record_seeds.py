"""Records what a real Envoy sends to its picker into tests/data/extproc, as seeds of the fuzzer.

Run by hand when Envoy changes: ``python tests/extproc/record_seeds.py``. A small proxy between the two writes down the
bytes of the first connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.envoy.bootstrap import BootstrapOptions
from pointsman.envoy.process import EnvoyProcess
from pointsman.errors import SaturatedError
from pointsman.extproc.server import ExtProcServer, ServerOptions

TARGET = Path(__file__).resolve().parent.parent / "data" / "extproc"
MODES: dict[str, dict[str, Any]] = {
    "lean": {},
    "duplex": {"full_duplex": True},
    "duplex-both": {"full_duplex": True, "full_duplex_response": True},
}
RECORD: Any = None


class Exchange:
    observe_body = True

    def __init__(self, decision: RoutingDecision) -> None:
        self.decision = decision

    def served(self, hostport: str) -> None:
        pass

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        pass

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        pass

    def end(self, cause: EndCause) -> None:
        pass


class Decider:
    """Refuses bodies that say so."""

    def __init__(self, target: Endpoint) -> None:
        self.target = target

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange:
        if b"refuse" in body:
            raise SaturatedError("as asked for")
        return Exchange(RoutingDecision(InferenceRequest(id="r", model="m"), (self.target,), RECORD))


async def answer(request: web.Request) -> web.StreamResponse:
    await request.read()
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):
        for number in range(3):
            await response.write(b'data: {"n": %d}\n\n' % number)
            await asyncio.sleep(0.02)
    return response


@contextlib.asynccontextmanager
async def recorder(port: int, tape: list[bytearray]) -> AsyncIterator[int]:
    """A proxy to ``port`` that keeps what clients send, one tape per connection."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, into: bytearray | None) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if into is not None:
                    into += data
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        tape.append(bytearray())
        await asyncio.gather(copy(reader, there_writer, tape[-1]), copy(there_reader, writer, None))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def talk(port: int) -> None:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with aiohttp.ClientSession() as http:
        for body in (b'{"model": "m", "prompt": "a"}', b"x" * 17_000, b"refuse this", b'{"model": "m"}'):
            async with http.post(url, data=body, headers={"x-request-id": f"id-{len(body)}"}) as response:
                await response.read()
        async with http.get(url) as response:
            await response.read()
        async with http.post(url, data=b"{}") as response:
            response.close()  # a client that leaves
        await asyncio.sleep(0.2)


async def record(mode: dict[str, Any]) -> bytes:
    """The bytes of a session."""
    tape: list[bytearray] = []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = Endpoint(EndpointId("ns/a"), "127.0.0.1", runner.addresses[0][1])
    picker = ExtProcServer(Decider(target), ServerOptions(port=0))
    await picker.start()
    async with recorder(picker.port, tape) as port:
        ports: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "admin_port": 0, "round_robin_port": 0}
        with tempfile.TemporaryDirectory() as folder:
            envoy = EnvoyProcess(BootstrapOptions(**ports, picker_port=port, **mode), Path(folder), concurrency=1)
            await envoy.start((target,), timeout=40)
            await talk(envoy.port)
            await envoy.stop(0)
    await picker.drain(0)
    await runner.cleanup()
    return bytes(tape[0])


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, mode in MODES.items():
        (TARGET / f"{name}.bin").write_bytes(asyncio.run(record(mode)))


if __name__ == "__main__":
    main()
