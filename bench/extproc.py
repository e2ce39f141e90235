"""Cost of a request on the ext-proc stream: our transport against grpcio, the same bytes in one run.

The server runs alone on one core, a load generator in C (bench/h2load.c, built with gcc when this starts) on another.
CPU is user and system time of the whole server process, per request; p50 and p99 are of the pick, in a closed loop of 2
connections with 16 streams each. ``buffered`` is headers and body in, two replies, response headers in, one reply;
``duplex`` also takes the body back; ``sse`` adds 200 chunks of an answer, one at a time, each way. The work is nothing
(a decider that always says the same) or the whole default decision on 8 or 64 pods.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import RoutingDecision
from pointsman.app import memory
from pointsman.extproc import hpack
from pointsman.extproc.codec import encode_request
from pointsman.extproc.services import PROCESS
from pointsman.extproc.wire import BodyMode, Event, RequestBody, RequestHeaders, ResponseBody, ResponseHeaders

ROOT = Path(__file__).resolve().parent.parent
CHUNKS = 200
LONG_CHUNKS = 1000
CONNECTIONS, STREAMS = 2, 16
CORES = sorted(os.sched_getaffinity(0))


class Row(msgspec.Struct):
    """One case on one transport; times in microseconds, CPU and rate per request."""

    case: str
    work: str
    transport: str
    rate: float
    cpu: float
    p50: float
    p99: float
    errors: int


# The server


class _Exchange:
    observe_body = False

    def __init__(self, decision: RoutingDecision) -> None:
        self.decision = decision

    def served(self, hostport: str) -> None:
        pass

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        pass

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        pass

    def end(self, cause: str) -> None:
        pass


class _Decider:
    def __init__(self) -> None:
        record: Any = None
        endpoint = Endpoint(EndpointId("ns/a"), "10.0.0.1", 8000)
        self._exchange = _Exchange(RoutingDecision(InferenceRequest(id="r", model="m"), (endpoint,), record))

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> _Exchange:
        return self._exchange


def serve(transport: str, work: str) -> None:
    """Run a server on the first core until standard input ends."""
    os.sched_setaffinity(0, {CORES[0]})
    module = importlib.import_module(
        "pointsman.extproc.server" if transport == "pointsman" else "pointsman.extproc.grpcio_server"
    )
    decider = (
        _Decider() if work == "none" else importlib.import_module("bench.decision").make_director("default", int(work))
    )

    async def main() -> None:
        server = module.ExtProcServer(decider, module.ServerOptions(port=0))
        await server.start()
        memory.settle()  # as the picker does
        print(server.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await server.drain(0)

    importlib.import_module("uvloop").run(main())


@contextlib.contextmanager
def running(transport: str, work: str) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and process id."""
    command = [sys.executable, "-m", "bench.extproc", "--serve", transport, "--work", work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.stdin.close()
            process.wait(10)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The load


def script(case: str) -> bytes:
    """What the load generator plays (format in h2load.c)."""
    kind, size = case.split("-")
    mode = BodyMode.BUFFERED if kind == "buffered" else BodyMode.FULL_DUPLEX_STREAMED
    answer_mode = BodyMode.FULL_DUPLEX_STREAMED if kind in {"sse", "long"} else BodyMode.NONE
    head = RequestHeaders(RequestHead(_request_headers(size)), False, mode, answer_mode)
    body = chat(int(size.removesuffix("k")) * 1024)
    if kind == "buffered":
        request: list[Event] = [head, RequestBody(body, end_of_stream=True)]
    else:
        request = [head, RequestBody(body), RequestBody(b"", end_of_stream=True)]
    answer = ResponseHeaders({":status": "200", "content-type": "text/event-stream", "date": "now"})
    steps: list[tuple[int, list[Event]]] = [(2, request), (1, [answer])]
    chunks = {"sse": CHUNKS, "long": LONG_CHUNKS}.get(kind, 0)
    if chunks:
        piece = b'data: {"choices":[{"index":0,"delta":{"content":" token"}}],"id":"chatcmpl-1"}\n\n'
        steps += [(1, [ResponseBody(piece)]) for _ in range(chunks - 1)]
        steps.append((1, [ResponseBody(piece, end_of_stream=True)]))
    out = [struct.pack("<I", len(_HEAD)), _HEAD, struct.pack("<I", len(steps))]
    for replies, events in steps:
        payload = b"".join(framed(encode_request(event)) for event in events)
        out += (struct.pack("<II", replies, len(payload)), payload)
    return b"".join(out)


_HEAD = hpack.encode(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", PROCESS.encode()),
        (b":authority", b"picker"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
)


def framed(message: bytes) -> bytes:
    """A message with its gRPC prefix."""
    return struct.pack(">BI", 0, len(message)) + message


def chat(size: int) -> bytes:
    """A chat request of about ``size`` bytes."""
    text = "You are a careful assistant. " * (size // 29 - 4)
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}], "stream": True})


def _request_headers(size: str) -> dict[str, str]:
    return {
        ":authority": "gateway.example:8080",
        ":path": "/v1/chat/completions",
        ":method": "POST",
        ":scheme": "http",
        "user-agent": "OpenAI/Python 2.8.1",
        "accept": "application/json",
        "authorization": "Bearer sk-0123456789abcdef0123456789abcdef",
        "content-type": "application/json",
        "content-length": str(int(size.removesuffix("k")) * 1024),
        "x-forwarded-proto": "http",
        "x-request-id": "0b1f3c9e-5f0a-4c39-9e52-2f1f0b7d6a11",
        "x-stainless-lang": "python",
    }


class Load:
    """The load generator, compiled."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._binary = folder, folder / "h2load"
        source = Path(__file__).with_name("h2load.c")
        subprocess.run(["gcc", "-O2", "-o", self._binary, source, "-lm"], check=True)

    def play(self, case: str, port: int, requests: int, rate: float = 0) -> dict[str, float]:
        """Play a script ``requests`` times; ``rate`` per second with Poisson arrivals, 0 for a closed loop."""
        path = self._folder / case
        if not path.exists():
            path.write_bytes(script(case))
        command = [self._binary, port, path, CONNECTIONS, STREAMS, requests, rate]
        done = subprocess.run(
            ["taskset", "-c", str(CORES[-1]), *map(str, command)], check=True, capture_output=True, text=True
        )
        answer: dict[str, float] = json.loads(done.stdout)
        return answer


def measure(
    load: Load, case: str, target: tuple[int, int], seconds: float, rate: float = 0
) -> tuple[float, float, float, float, float]:
    """Requests per second, CPU microseconds per request, p50 and p99 of the pick, errors."""
    port, pid = target
    probe = load.play(case, port, 64)
    requests = max(64, int((rate or 64 / probe["seconds"]) * seconds))
    before = cpu_seconds(pid)
    result = load.play(case, port, requests, rate)
    cpu = (cpu_seconds(pid) - before) / requests * 1e6
    return requests / result["seconds"], cpu, result["first_p50"], result["first_p99"], result["errors"]


def compare(load: Load, case: str, work: str, repeats: int, seconds: float) -> Iterator[Row]:
    """Both transports in turn, medians of ``repeats``."""
    with running("grpcio", work) as reference, running("pointsman", work) as own:
        runs: dict[str, list[tuple[float, ...]]] = {"grpcio": [], "pointsman": []}
        for _ in range(repeats):
            for name, target in (("grpcio", reference), ("pointsman", own)):
                runs[name].append(measure(load, case, target, seconds))
    for name, results in runs.items():
        rate, cpu, p50, p99, errors = (median(column) for column in zip(*results, strict=True))
        yield Row(case, work, name, rate, cpu, p50, p99, int(errors))


def plan(*, quick: bool) -> list[tuple[str, str]]:
    """Cases and work."""
    cases = [("buffered-1k", "none"), ("buffered-24k", "none"), ("duplex-24k", "none"), ("sse-1k", "none")]
    if quick:
        return [*cases, ("buffered-24k", "64")]
    full = [(case, pods) for pods in ("8", "64") for case in ("buffered-1k", "buffered-24k", "duplex-24k")]
    # 100,000 tokens in, 1,000 chunks out: the request that llm-d's own study plays, in lean and in full mode.
    return [*cases, ("duplex-1k", "none"), *full, ("buffered-400k", "64"), ("long-400k", "64")]


def show(rows: list[Row]) -> None:
    print(
        f"{'case':<14} {'pods':>4}  {'transport':<10} {'req/s':>8} {'CPU us':>8} {'ratio':>6} {'p50 ms':>7} {'p99':>7}"
    )
    base = {(row.case, row.work): row.cpu for row in rows if row.transport == "grpcio"}
    duplex = {row.transport: row.cpu for row in rows if (row.case, row.work) == ("duplex-1k", "none")}
    for row in rows:
        ratio = f"{base[row.case, row.work] / row.cpu:.1f}x" if (row.case, row.work) in base else ""
        print(
            f"{row.case:<14} {row.work:>4}  {row.transport:<10} {row.rate:>8.0f} {row.cpu:>8.1f} {ratio:>6}"
            f" {row.p50 / 1000:>7.2f} {row.p99 / 1000:>7.2f}{f'  {row.errors} errors' if row.errors else ''}"
        )
        if row.case.startswith("sse"):
            per_chunk = (row.cpu - duplex.get(row.transport, 0)) / CHUNKS
            print(f"{'':<14} {'':>4}  {'':<10} {'':>8} {per_chunk:>8.1f} per streamed chunk")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short run of the main cases")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--serve", choices=["grpcio", "pointsman"], help=argparse.SUPPRESS)
    parser.add_argument("--work", default="none", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.work)
        return
    repeats, seconds = (1, 1.0) if options.quick else (3, 2.0)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        load = Load(Path(folder))
        for case, work in plan(quick=options.quick):
            rows += compare(load, case, work, repeats, seconds)
        for rate in () if options.quick else (1000, 2000, 3000):
            with running("pointsman", "64") as target:
                per_second, cpu, p50, p99, errors = measure(load, "buffered-24k", target, 5.0, rate)
                rows.append(Row(f"poisson-{rate}", "64", "pointsman", per_second, cpu, p50, p99, int(errors)))
    if options.json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
    else:
        show(rows)


if __name__ == "__main__":
    main()
