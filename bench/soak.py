"""Many ext-proc streams held open for long: memory flat after warm-up, no stream leaked, ledger at zero at the end.

Starts two simulated pods and a picker, opens STREAMS requests with a grpcio client, keeps each for up to a minute, ends
it in one of the ways that Envoy knows (answer and end, abort, abort amid the answer), and opens another. Prints the
picker's memory every ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
import msgspec

from pointsman.app.discovery import EndpointOptions
from pointsman.app.processes import PointsmanChild
from pointsman.demo.load import get_json
from pointsman.extproc import ext_proc_pb2 as pb
from pointsman.observability.logging import setup

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
BODY = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hello " * 200}], "stream": True})


def _headers(pairs: dict[str, str]) -> pb.HttpHeaders:
    headers = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs.items()]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=headers))


FIRST = pb.ProcessingRequest(
    request_headers=_headers({":method": "POST", ":path": "/v1/chat/completions"}),
    protocol_config=pb.ProtocolConfiguration(request_body_mode="BUFFERED"),
).SerializeToString()
SECOND = pb.ProcessingRequest(request_body=pb.HttpBody(body=BODY, end_of_stream=True)).SerializeToString()
THIRD = pb.ProcessingRequest(
    response_headers=_headers({":status": "200", "content-type": "text/event-stream"})
).SerializeToString()


async def one(call: Any, rng: Random, deadline: float) -> None:
    """One request's life."""
    stream = call()
    await stream.write(FIRST)
    await stream.read()
    await stream.write(SECOND)
    await stream.read()
    ending = rng.random()
    await asyncio.sleep(min(rng.uniform(5, 60), max(0.0, deadline - time.monotonic())))
    if ending < 0.2:
        stream.cancel()
        return
    await stream.write(THIRD)
    await stream.read()
    if ending < 0.4:
        stream.cancel()
        return
    await stream.done_writing()
    while await stream.read() is not grpc.aio.EOF:
        pass


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def main(options: argparse.Namespace) -> int:
    setup("error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pods, ready = folder / "pods.yaml", folder / "ready"
        fleet = PointsmanChild(
            "pods", ["sim", "--pods", "2", "--port", "0", "--model", "m", "--endpoints-file", str(pods)]
        )
        await fleet.start(pods)
        arguments = [
            "epp",
            *EndpointOptions(file=pods).flags(),
            "--port",
            "0",
            "--admin-port",
            "0",
            "--log-level",
            "error",
        ]
        arguments += ["--ready-file", str(ready), "--transport", options.transport, "--drain", "1"]
        picker = PointsmanChild("picker", arguments)
        await picker.start(ready)
        try:
            return await soak(options, picker, msgspec.json.decode(ready.read_bytes()))
        finally:
            await picker.stop(1)
            await fleet.stop(1)


async def soak(options: argparse.Namespace, picker: PointsmanChild, ports: dict[str, int]) -> int:
    rng = Random(1)
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{ports['ext_proc']}", options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(max(1, options.streams // 100))
    ]
    calls = [channel.stream_stream(METHOD) for channel in channels]
    deadline = time.monotonic() + options.seconds
    finished = failed = 0

    async def worker(i: int) -> None:
        nonlocal finished, failed
        await asyncio.sleep(rng.uniform(0, min(30.0, options.seconds / 4)))
        while time.monotonic() < deadline:
            try:
                await one(calls[i % len(calls)], rng, deadline)
                finished += 1
            except (grpc.aio.AioRpcError, asyncio.CancelledError):
                failed += 1

    workers = [asyncio.create_task(worker(i)) for i in range(options.streams)]
    began, samples = time.monotonic(), []
    while time.monotonic() < deadline:
        await asyncio.sleep(10)
        assert picker.pid
        flight = sum(p["in_flight"]["requests"] for p in (await _pods(ports))["pods"])
        samples.append(resident_mib(picker.pid))
        at = time.monotonic() - began
        print(f"{at:5.0f} s  in flight {flight:6d}  done {finished:7d}  rss {samples[-1]:6.1f} MiB", flush=True)
    await asyncio.gather(*workers)
    await asyncio.gather(*(channel.close() for channel in channels))
    await asyncio.sleep(3)
    left = sum(p["in_flight"]["requests"] for p in (await _pods(ports))["pods"])
    half = samples[len(samples) // 2 :]
    span = f"{min(half):.1f} to {max(half):.1f} MiB"
    print(f"finished {finished}, failed {failed}, ledger at the end {left}, memory in the second half {span}")
    return 0 if left == 0 and failed == 0 else 1


async def _pods(ports: dict[str, int]) -> Any:
    return await get_json(f"http://127.0.0.1:{ports['admin']}/pods")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    sys.exit(asyncio.run(main(parser.parse_args())))
