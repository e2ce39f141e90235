"""Our own transport at its edges: Unix sockets, TLS, silent peers, health, draining."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import grpc
import grpc.aio
import h2.events
import pytest
from tests.extproc.test_grpcio_server import PROCESS, Decider, check, talk
from tests.extproc.test_server import ANSWERS, ONE_REQUEST, H2Client, running, until

from pointsman.errors import StartupError
from pointsman.extproc import ext_proc_pb2 as pb
from pointsman.extproc import peer as peer_module
from pointsman.extproc.codec import decode_response, encode_request
from pointsman.extproc.server import ExtProcServer, ServerOptions, TlsFiles, serving

# Sockets


def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "picker.sock")

    async def main() -> None:
        async with running(Decider(), f"unix:{path}", unix_path=path) as (_, channel):
            assert await talk(channel, ONE_REQUEST, 3) == ANSWERS
            with pytest.raises(StartupError, match="in use"):
                await ExtProcServer(Decider(), ServerOptions(port=0, unix_path=path)).start()
            assert await talk(channel, ONE_REQUEST, 3) == ANSWERS

    asyncio.run(main())
    assert not Path(path).exists()


def test_a_dead_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "picker.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    async def main() -> None:
        async with running(Decider(), f"unix:{path}", unix_path=path) as (_, channel):
            assert await talk(channel, ONE_REQUEST, 3) == ANSWERS

    asyncio.run(main())


def test_silent_peers_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_GREETING_SECONDS", 0.0)
    monkeypatch.setattr(peer_module, "_SILENT_SECONDS", -1.0)
    monkeypatch.setattr(peer_module, "_PONG_SECONDS", 3.0)

    async def main() -> None:
        decider = Decider()
        async with running(decider, idle_seconds=0.5) as (server, channel):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.wait_for(reader.read(), 5)  # says nothing, is closed
            writer.close()
            assert await talk(channel, ONE_REQUEST, 3) == ANSWERS
            await until(lambda: not server._peers)  # idle: asked to leave
            client = H2Client()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            client.connection.initiate_connection()
            client.open()
            events = await client.collect(reader, writer, h2.events.PingReceived)
            assert isinstance(events[-1], h2.events.PingReceived)  # silent with a call: are you there?
            writer.close()

    asyncio.run(main())


# TLS


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
    make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-addext", "subjectAltName=DNS:localhost"]
    command = [openssl, *make, "-subj", f"/CN={name}", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


async def served_name(port: int, alpn: str) -> str:
    """The name in the certificate that a handshake shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    with contextlib.suppress(ConnectionError):
        assert bool(await asyncio.wait_for(reader.read(9), 5)) == (alpn == "h2")
    writer.close()
    return "second" if b"second" in shown else "first"


def test_tls_is_reloaded(tmp_path: Path) -> None:
    files, second = TlsFiles(*make_certificate(tmp_path, "first")), make_certificate(tmp_path, "second")

    async def main() -> None:
        errors: list[Exception] = []
        server = ExtProcServer(Decider(), ServerOptions(port=0, tls=files, health_port=0), on_error=errors.append)
        trust = grpc.ssl_channel_credentials(read(files.certificate))
        async with serving(server), grpc.aio.secure_channel(f"localhost:{server.port}", trust) as channel:
            assert await talk(channel, ONE_REQUEST, 3) == ANSWERS
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as plain:
                assert await check(plain, "readiness") == 1
            assert await served_name(server.port, "h2") == "first"
            assert await served_name(server.port, "http/1.1") == "first"  # and is closed
            write(files.certificate, b"garbage")
            assert not server.reload_tls()
            assert isinstance(errors[0], ssl.SSLError)
            assert await served_name(server.port, "h2") == "first"
            for source, target in zip(second, (files.key, files.certificate), strict=True):
                write(target, read(source))
                os.utime(target, (time.time() + 5, time.time() + 5))
            await asyncio.sleep(1.2)  # found by the server itself
            assert await served_name(server.port, "h2") == "second"
            assert await talk(channel, ONE_REQUEST, 3) == ANSWERS  # connections go on

    asyncio.run(main())


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    files = TlsFiles(str(tmp_path / "no.key"), str(tmp_path / "no.pem"))

    async def main() -> None:
        for tls in (files, (b"no key", b"no certificate")):
            with pytest.raises(StartupError, match="certificate"):
                await ExtProcServer(Decider(), ServerOptions(port=0, tls=tls)).start()

    asyncio.run(main())


# Health and the end


def test_health_answers_while_draining() -> None:
    async def main() -> None:
        decider = Decider()
        async with running(decider, health_port=0) as (server, channel):
            call = channel.stream_stream(PROCESS)()
            for event in ONE_REQUEST:
                await call.write(encode_request(event))
            answers = [decode_response(await call.read()) for _ in range(2)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as health:
                watch = health.unary_stream("/grpc.health.v1.Health/Watch")(b"")
                assert pb.HealthCheckResponse.FromString(await watch.read()).status == 1
                draining = asyncio.create_task(server.drain(5))
                await asyncio.sleep(0.05)
                assert [await check(health, name) for name in ("", "liveness")] == [2, 1]
                assert pb.HealthCheckResponse.FromString(await watch.read()).status == 2
                with pytest.raises(ConnectionError):
                    await asyncio.open_connection("127.0.0.1", server.port)
                # the call under way goes on
                answers.append(decode_response(await call.read()))
                assert answers == ANSWERS
                await call.done_writing()
                assert await call.code() == grpc.StatusCode.OK
                await draining
        assert decider.exchanges[0].ends == ["complete"]

    asyncio.run(main())


def test_a_lost_connection_ends_every_call_once() -> None:
    async def main() -> None:
        decider = Decider()
        async with running(decider) as (server, channel):
            for _ in range(5):
                call = channel.stream_stream(PROCESS)()
                for event in ONE_REQUEST[:2]:
                    await call.write(encode_request(event))
                await call.read()
                await call.read()
            [peer] = server._peers
            peer.abort()
            await until(lambda: server.open_streams == 0)
        assert [exchange.ends for exchange in decider.exchanges] == [["client-abort"]] * 5

    asyncio.run(main())
