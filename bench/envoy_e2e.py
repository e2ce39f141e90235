"""What the picker adds through a real Envoy, against Envoy alone and against Rust routers on the same fake backends.

Prints, per path: added latency at a low rate (Poisson, 50 requests a second, so that queues do not hide it), requests a
second in a closed loop of 16 connections, and CPU microseconds per request of every process on the path. The backends
answer at once with a small body, so all that is seen is the path.

    python bench/envoy_e2e.py                 # Envoy alone, Envoy + picker (native transport), Envoy + picker (grpcio)
    python bench/envoy_e2e.py --with-rivals   # also smg and sglang-router, installed into throw-away environments
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, cast

import msgspec
import uvloop

from pointsman.app.discovery import EndpointOptions
from pointsman.app.up import Up, UpOptions, free_port
from pointsman.demo.report import quantile
from pointsman.observability.logging import setup

BACKENDS = 4
TICKS = os.sysconf("SC_CLK_TCK")
RIVALS = {
    "smg": ("smg", "smg"),
    "sglang-router": ("sglang-router", "sglang-router"),
}


def answer(body: str) -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


CHAT = answer(
    '{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant",'
    '"content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)
MODEL = answer('{"model_path":"m","served_model_name":"m","model_id":"m","is_generation":true,"tp_size":1,"dp_size":1}')
ANSWERS = {
    b"/v1/models": answer('{"object":"list","data":[{"id":"m","object":"model"}]}'),
    # what the rivals ask a backend before they trust it
    **dict.fromkeys((b"/get_model_info", b"/model_info", b"/get_server_info", b"/server_info"), MODEL),
    b"/health": answer("{}"),
    b"/metrics": answer("vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n"),
}


class Backend(asyncio.Protocol):
    """A keep-alive HTTP/1.1 server that reads a request and answers at once."""

    def __init__(self) -> None:
        self._buffer = b""
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, mark, rest = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._transport.write(ANSWERS.get([*head.split(b" ", 2), b""][1], CHAT))


async def serve_backends(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(Backend, "127.0.0.1", port)
    await asyncio.Event().wait()


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> int:
    """Send one request on a kept connection; returns the status."""
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:"))
    body = await reader.readexactly(length)
    if head[9:12] != b"200":
        raise SystemExit(f"unexpected answer: {head!r} {body!r}")
    return 200


def messages(size: int, count: int) -> list[bytes]:
    """Chats of about ``size`` bytes in 16 prefix groups."""
    made = []
    for i in range(count):
        system = f"group {i % 16} " + "you are a careful assistant " * max(0, (size - 300) // 28)
        body = msgspec.json.encode(
            {
                "model": "m",
                "messages": [{"role": "system", "content": system}, {"role": "user", "content": f"question {i} " * 8}],
            }
        )
        made.append(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
    return made


async def low_rate(port: int, chats: list[bytes], rate: float, count: int) -> list[float]:
    """Latencies in milliseconds of Poisson arrivals on kept connections."""
    rng, loop = Random(1), asyncio.get_running_loop()
    idle = [await asyncio.open_connection("127.0.0.1", port, limit=2**20) for _ in range(8)]
    latencies: list[float] = []

    async def one(message: bytes) -> None:
        pair = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        start = time.perf_counter()
        assert await request(*pair, message) == 200
        latencies.append((time.perf_counter() - start) * 1000)
        idle.append(pair)

    tasks = []
    at = loop.time()
    for i in range(count):
        at += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, at - loop.time()))
        tasks.append(asyncio.create_task(one(chats[i % len(chats)])))
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return latencies


async def closed_loop(port: int, chats: list[bytes], connections: int, seconds: float) -> int:
    """Requests answered in ``seconds`` with so many connections."""
    deadline = time.monotonic() + seconds
    done = 0

    async def client(offset: int) -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        i = offset
        while time.monotonic() < deadline:
            assert await request(reader, writer, chats[i % len(chats)]) == 200
            done += 1
            i += connections
        writer.close()

    await asyncio.gather(*(client(i) for i in range(connections)))
    return done


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


async def measure(name: str, port: int, pids: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """One path: both loads, and the CPU of its processes during the closed loop."""
    chats = messages(options.size, 256)
    await closed_loop(port, chats, 4, 1.0)
    latencies = await low_rate(port, chats, 50, options.requests)
    before = {label: cpu_seconds([pid]) for label, pid in pids.items()}
    began = time.monotonic()
    done = await closed_loop(port, chats, 16, options.seconds)
    wall = time.monotonic() - began
    return {
        "path": name,
        "p50_ms": quantile(latencies, 0.5),
        "p99_ms": quantile(latencies, 0.99),
        "req_per_s": done / wall,
        "cpu_us": {label: (cpu_seconds([pid]) - before[label]) / done * 1e6 for label, pid in pids.items()},
    }


async def through_envoy(ports: list[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Envoy alone, then with the picker on each transport."""
    rows = []
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    for transport in ("native", "grpcio"):
        up = Up(
            UpOptions(
                endpoints=EndpointOptions(urls=urls),
                port=0,
                round_robin_port=0,
                admin_port=0,
                transport=transport,
                log_level="error",
                drain=1.0,
                concurrency=1,
                scrape_period=5.0,
            )
        )
        await up.start()
        try:
            assert up.envoy.pid
            assert up.picker.pid
            envoy, picker = up.envoy.pid, up.picker.pid
            if transport == "native":
                assert up.envoy.round_robin_port
                rows.append(await measure("Envoy alone", up.envoy.round_robin_port, {"Envoy": envoy}, options))
            both = {"Envoy": envoy, "picker": picker}
            rows.append(await measure(f"Envoy + picker ({transport})", up.envoy.port, both, options))
        finally:
            await up.stop()
    return rows


@contextlib.contextmanager
def rival(name: str, folder: Path, ports: list[int]) -> Iterator[tuple[int, int]]:
    """Install a Rust router into an environment of its own and run it; yields port and process id."""
    package, command = RIVALS[name]
    venv = folder / name
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run(
        [venv / "bin/pip", "install", "-q", "--disable-pip-version-check", package], check=True, capture_output=True
    )
    port, metrics = free_port(), free_port()
    urls = [f"http://127.0.0.1:{backend}" for backend in ports]
    arguments = [venv / "bin" / command, "launch", "--worker-urls", *urls, "--policy", "cache_aware"]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics)]
    arguments += ["--prometheus-host", "127.0.0.1", "--log-level", "warn"]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([str(a) for a in arguments], stdout=log, stderr=log)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            time.sleep(0.2)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def print_rows(rows: list[dict[str, Any]]) -> None:
    base = rows[0]
    print(f"{'path':<26} {'p50 ms':>8} {'p99 ms':>8} {'added p50':>10} {'added p99':>10} {'req/s':>8}  CPU µs/request")
    for row in rows:
        cpu = ", ".join(f"{label} {micros:.0f}" for label, micros in row["cpu_us"].items())
        added = (row["p50_ms"] - base["p50_ms"], row["p99_ms"] - base["p99_ms"])
        print(
            f"{row['path']:<26} {row['p50_ms']:>8.2f} {row['p99_ms']:>8.2f} {added[0]:>+10.2f} {added[1]:>+10.2f} "
            f"{row['req_per_s']:>8.0f}  {cpu}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=24_000, help="bytes of a request body")
    parser.add_argument("--requests", type=int, default=400, help="requests at the low rate")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the closed loop")
    parser.add_argument("--with-rivals", action="store_true")
    parser.add_argument("--backends", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backends:
        uvloop.run(serve_backends([int(port) for port in options.backends.split(",")]))
        return
    setup("error")
    ports = [free_port() for _ in range(BACKENDS)]
    backends = subprocess.Popen([sys.executable, __file__, "--backends", ",".join(map(str, ports))])
    try:
        time.sleep(1.0)
        rows = uvloop.run(through_envoy(ports, options))
        if options.with_rivals:
            with tempfile.TemporaryDirectory() as folder:
                for name in RIVALS:
                    with rival(name, Path(folder), ports) as (port, pid):
                        time.sleep(3.0)  # they find out about the backends' model on their own
                        rows.append(uvloop.run(measure(name, port, {name: pid}, options)))
        print_rows(rows)
    finally:
        backends.terminate()


if __name__ == "__main__":
    main()
