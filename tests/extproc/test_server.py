"""Our own transport over real sockets: gRPC and h2 clients, TLS, Unix sockets, health, draining."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from tests.extproc.test_grpcio_server import BIG, PROCESS, Decider, head, talk
from tests.extproc.test_http2 import framed

from pointsman.extproc.codec import decode_response, encode_request
from pointsman.extproc.flow import Http2Limits
from pointsman.extproc.server import ExtProcServer, ServerOptions, serving
from pointsman.extproc.wire import (
    Action,
    BodyMode,
    Chunk,
    Continue,
    Event,
    RequestBody,
    ResponseBody,
    ResponseHeaders,
    Route,
)

DUPLEX = BodyMode.FULL_DUPLEX_STREAMED
ONE_REQUEST: list[Event] = [head(), RequestBody(b"{}", end_of_stream=True), ResponseHeaders({":status": "200"})]
ANSWERS = [Continue("request_headers"), Route("request_body", "10.0.0.1:8000"), Continue("response_headers")]


@contextlib.asynccontextmanager
async def running(decider: Decider, target: str = "127.0.0.1:{port}", **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    server = ExtProcServer(decider, ServerOptions(port=0, **options))
    async with serving(server), grpc.aio.insecure_channel(target.format(port=server.port), options=BIG) as channel:
        yield server, channel


async def until(condition: Any, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what a test waits for has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_536, 1_000_000, 8 * 1024 * 1024])
def test_bodies_of_all_sizes_both_ways(size: int) -> None:
    async def main() -> None:
        async with running(Decider()) as (_, channel):
            body = os.urandom(size)
            answers = 1 + max(1, -(-size // 62_000))
            route, *chunks = await talk(channel, [head(DUPLEX), RequestBody(body, end_of_stream=True)], answers)
            assert isinstance(route, Route)
            assert b"".join(chunk.data for chunk in chunks if isinstance(chunk, Chunk)) == body

    asyncio.run(main())


def test_500_streams_at_once() -> None:
    async def main() -> None:
        decider = Decider()
        async with running(decider) as (server, channel):
            results = await asyncio.gather(*(talk(channel, ONE_REQUEST, 3) for _ in range(500)))
            assert results == [ANSWERS] * 500
            assert server.open_streams == 0
        assert [exchange.ends for exchange in decider.exchanges] == [["complete"]] * 500

    asyncio.run(main())


def test_200_cancels() -> None:
    async def main() -> None:
        decider = Decider()

        async def leave(channel: Any) -> None:
            call = channel.stream_stream(PROCESS)()
            for event in ONE_REQUEST[:2]:
                await call.write(encode_request(event))
            await call.read()
            await call.read()
            call.cancel()

        async with running(decider) as (server, channel):
            await asyncio.gather(*(leave(channel) for _ in range(200)))
            await until(lambda: server.open_streams == 0)
            assert await talk(channel, ONE_REQUEST, 3) == ANSWERS
        assert [exchange.ends for exchange in decider.exchanges] == [["client-abort"]] * 200 + [["complete"]]

    asyncio.run(main())


def test_slow_readers() -> None:
    body = os.urandom(1024 * 1024)

    async def read_slowly(channel: Any) -> None:
        call = channel.stream_stream(PROCESS)()
        for event in (head(DUPLEX), RequestBody(body, end_of_stream=True)):
            await call.write(encode_request(event))
        actions: list[Action] = []
        while sum(len(action.data) for action in actions if isinstance(action, Chunk)) < len(body):
            actions.append(decode_response(await call.read()))
            await asyncio.sleep(0.01)
        assert b"".join(action.data for action in actions if isinstance(action, Chunk)) == body

    async def main() -> None:
        async with running(Decider()) as (_, channel):
            await asyncio.gather(*(read_slowly(channel) for _ in range(20)), talk(channel, ONE_REQUEST, 3))

    asyncio.run(main())


def test_who_never_reads_is_cut_off() -> None:
    """A client whose windows are open but whose socket is not read: answers wait, up to the limit, and no further."""

    async def main() -> None:
        decider = Decider()
        limits = Http2Limits(max_pending=1_000_000)
        async with running(decider, http2=limits) as (server, _):
            client = H2Client()
            raw = socket.create_connection(("127.0.0.1", server.port))
            raw.setblocking(False)
            client.connection.initiate_connection()
            client.connection.increment_flow_control_window(2**30)
            stream_id = client.open()
            message = framed(encode_request(head(DUPLEX)), encode_request(RequestBody(b"", end_of_stream=False)))
            client.connection.send_data(stream_id, message)
            out = bytearray(client.connection.data_to_send())
            piece = framed(encode_request(RequestBody(bytes(50_000), end_of_stream=True)))
            for _ in range(4000):
                frame = [piece[at : at + 16_000] for at in range(0, len(piece), 16_000)]
                out += b"".join(len(p).to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big") + p for p in frame)
            loop = asyncio.get_running_loop()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await asyncio.wait_for(loop.sock_sendall(raw, out), 1.0)
            assert (server.open_streams, len(server._peers)) == (0, 1)  # the call is cut off, the connection lives
            assert all(peer.connection._outbox.buffered == 0 for peer in server._peers)
            raw.close()
        assert all(len(exchange.ends) == 1 for exchange in decider.exchanges)

    asyncio.run(main())


# The h2 library as client


class H2Client:
    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)

    def open(self, path: str = PROCESS, *, end: bool = False, content_type: str = "application/grpc") -> int:
        stream_id = self.connection.get_next_available_stream_id()
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "content-type": content_type}
        self.connection.send_headers(stream_id, [*headers.items(), ("te", "trailers")], end_stream=end)
        return stream_id

    async def collect(self, reader: Any, writer: Any, done: Any) -> list[Any]:
        """Events until one is of the kind ``done``; windows are kept open."""
        events: list[Any] = []
        while not any(isinstance(event, done) for event in events):
            writer.write(self.connection.data_to_send())
            data = await asyncio.wait_for(reader.read(65536), 5)
            if not data:
                break
            for event in self.connection.receive_data(data):
                events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        writer.write(self.connection.data_to_send())
        return events


async def with_h2(
    server: ExtProcServer, messages: Sequence[Event], **options: Any
) -> tuple[list[Action], dict[str, str]]:
    """A call by the h2 library, which checks every frame it gets: answers and trailers."""
    client = H2Client()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    client.connection.initiate_connection()
    stream_id = client.open(**options)
    client.connection.send_data(stream_id, framed(*map(encode_request, messages)), end_stream=True)
    events = await client.collect(reader, writer, h2.events.StreamEnded)
    writer.close()
    body = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    actions = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        actions.append(decode_response(body[5 : 5 + size]))
        body = body[5 + size :]
    kinds = (h2.events.TrailersReceived, h2.events.ResponseReceived)
    headers: Any = [event for event in events if isinstance(event, kinds)][-1].headers
    return actions, dict(headers)


def test_the_h2_library() -> None:
    async def main() -> None:
        async with running(Decider()) as (server, _):
            assert await with_h2(server, ONE_REQUEST) == (ANSWERS, {"grpc-status": "0"})
            _, trailers = await with_h2(server, [], path="/x/Y")
            assert (trailers[":status"], trailers["grpc-status"]) == ("200", "12")
            _, headers = await with_h2(server, [], content_type="text/plain")
            assert headers[":status"] == "415"

    asyncio.run(main())


def test_a_reset_right_behind_the_last_chunk() -> None:
    """Envoy ends each stream by a reset, often in the packet with the end of the answer: that is no client abort."""

    async def main() -> None:
        decider = Decider()
        async with running(decider) as (server, _):
            client = H2Client()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            client.connection.initiate_connection()
            stream_id = client.open()
            start: list[Event] = [
                head(DUPLEX, DUPLEX),
                RequestBody(b"{}", end_of_stream=True),
                ResponseHeaders({":status": "200"}),
            ]
            client.connection.send_data(stream_id, framed(*map(encode_request, start)))
            await client.collect(reader, writer, h2.events.DataReceived)
            end: list[Event] = [ResponseBody(b"one"), ResponseBody(b"two"), ResponseBody(b"", end_of_stream=True)]
            client.connection.send_data(stream_id, framed(*map(encode_request, end)))
            client.connection.reset_stream(stream_id, 2)
            # and a call that is over before it was looked at: nobody waits for a decision
            stream_id = client.open()
            client.connection.send_data(stream_id, framed(*map(encode_request, start)))
            client.connection.reset_stream(stream_id, 8)
            writer.write(client.connection.data_to_send())
            await until(lambda: decider.exchanges[0].ends)
            assert [exchange.ends for exchange in decider.exchanges] == [["complete"]]
            writer.close()

    asyncio.run(main())


def test_wrong_protocols_are_closed() -> None:
    async def main() -> None:
        async with running(Decider()) as (server, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 5)
            assert b"this is no HTTP/2" in answer
            writer.close()
            await until(lambda: not server._peers)

    asyncio.run(main())


def test_unknown_method() -> None:
    async def main() -> None:
        async with running(Decider()) as (_, channel):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/x.Y/Z")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert "/x.Y/Z" in str(caught.value.details())

    asyncio.run(main())


def test_messages_over_the_limit() -> None:
    async def main() -> None:
        decider = Decider()
        async with running(decider, max_message_bytes=1000) as (server, channel):
            call = channel.stream_stream(PROCESS)()
            await call.write(encode_request(head()))
            await call.write(encode_request(RequestBody(bytes(1000), end_of_stream=True)))
            await call.read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await until(lambda: server.open_streams == 0)

    asyncio.run(main())
