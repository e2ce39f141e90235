"""The indexer put together: real ZeroMQ streams, snapshots, restarts, and what cannot be had."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zmq
import zmq.asyncio
from tests.console.indexer_rig import CREATED, LOCAL, TOKENS, Client, serve, until

from pointsman.app.discovery import EndpointOptions
from pointsman.app.indexer import Indexer, IndexerOptions
from pointsman.errors import ConfigError, StartupError
from pointsman.sim.events import EventPublisher, encode_batch
from pointsman.sim.kv import BlocksStored
from pointsman.sim.profiles import DEFAULT_PROFILE, find_profile
from pointsman.sim.server import PodOptions, SimulatedPod


def test_a_simulated_pod_is_answered_for_within_a_second() -> None:
    async def run() -> None:
        profile = find_profile(DEFAULT_PROFILE)
        pod = SimulatedPod(PodOptions("p", profile, events_port=-1, replay_port=-1, time_scale=50))
        await pod.start()
        options = IndexerOptions(port=0, endpoints=EndpointOptions(urls=(f"http://{LOCAL}:{pod.port}",)))
        service = Indexer(options)
        try:
            await service.start()
            async with aiohttp.ClientSession() as session:
                client = Client(session, service.port)
                (name,) = service._specs
                await until(lambda: _is_connected(client))
                tokens = [token % 997 for token in range(20 * profile.block_size)]
                body = {"model": pod.model, "prompt": tokens, "max_tokens": 4}
                async with session.post(f"http://{LOCAL}:{pod.port}/v1/completions", json=body) as response:
                    assert response.status == 200

                async def known() -> bool:
                    return await client.matched(name, tokens, pod.model) == (20, 1.0)

                await until(known, 1.0)
                page = (await client.get("/metrics")).decode()
                assert f'kv_event_gaps_total{{pod="{name}",rank="0"}} 0.0' in page
                assert f'kv_event_lag_seconds{{pod="{name}",rank="0"}}' in page
                assert f'kv_pod_confidence{{pod="{name}",rank="0"}} 1.0' in page
                status, answer = await client.post(f"/events?pod={name}", CREATED)
                assert (status, answer["field"]) == (400, "pod")
                service.use([])
                assert await client.matched(name, tokens, pod.model) == (0, 0.0)
        finally:
            await service.stop()
            await pod.stop()

    asyncio.run(run())


async def _is_connected(client: Client) -> bool:
    streams = json.loads(await client.get("/stats"))["streams"]
    return bool(streams) and streams[0]["connected"]


def test_pods_that_connect_to_us() -> None:
    async def work(service: Indexer, client: Client) -> None:
        context = zmq.asyncio.Context()
        publisher = context.socket(zmq.PUB)
        publisher.linger = 0
        publisher.connect(service.bound)
        stored = BlocksStored([1, 2, 3, 4], None, TOKENS, None, "")
        sequence = 0

        async def known() -> bool:
            nonlocal sequence
            payload = encode_batch([stored] if not sequence else [], 16, math.pi)
            if not sequence:
                await asyncio.sleep(0.3)  # until the subscription is there; PUB drops what is sent before
            await publisher.send_multipart([b"kv@pod-7@m", sequence.to_bytes(8, "big"), payload])
            await publisher.send_multipart([b"nonsense", b"", b""])
            sequence += 1
            return (await client.matched("pod-7")) == (4, 1.0)

        await until(known)
        publisher.close()
        context.term()

    serve(work, bind=f"tcp://{LOCAL}:*")


def test_a_label_and_a_flag_name_the_port_of_events(tmp_path: Path) -> None:
    async def run() -> None:
        made = EventPublisher(f"tcp://{LOCAL}:*", f"tcp://{LOCAL}:*", "kv@p@m", 16)
        made.start()
        port = str(made.sources()["0"]["endpoint"]).rpartition(":")[2]
        file = tmp_path / "pods.yaml"
        labels = f'{{kv-events-port: "{port}", model-id: m}}'
        file.write_text(f"endpoints: [{{name: p, address: {LOCAL}, port: 1, labels: {labels}}}]")
        service = Indexer(IndexerOptions(port=0, endpoints=EndpointOptions(file=file), events_port=9))
        try:
            await service.start()
            async with aiohttp.ClientSession() as session:
                client = Client(session, service.port)
                await until(lambda: _is_connected(client))
                await asyncio.sleep(0.2)  # the subscription itself follows the handshake
                made.publish([BlocksStored([1, 2, 3, 4], None, TOKENS, None, "")], 1.0)

                async def known() -> bool:
                    return (await client.matched("default/p"))[0] == 4

                await until(known)
        finally:
            await service.stop()
            await made.stop()

    asyncio.run(run())


def test_a_restarted_service_knows_what_it_knew(tmp_path: Path) -> None:
    path = tmp_path / "index.snapshot"

    async def first(service: Indexer, client: Client) -> None:
        await client.post("/events?pod=a&model=m", CREATED)

        async def written() -> bool:
            return path.exists()

        await until(written)

    async def second(service: Indexer, client: Client) -> None:
        assert await client.matched("a") == (4, 0.3)
        await client.post("/events?pod=a&model=m", {**CREATED, "block_hashes": [1], "token_ids": TOKENS[:16]})

        async def live() -> bool:
            return await client.matched("a") == (1, 0.9)

        await until(live)

    async def cold(service: Indexer, client: Client) -> None:
        assert await client.matched("a") == (0, 0.0)

    serve(first, snapshot=path, snapshot_period=0.1)
    serve(second, snapshot=path)
    path.write_bytes(b"\xff" * 100)
    serve(cold, snapshot=path)


def test_a_snapshot_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    async def work(service: Indexer, client: Client) -> None:
        await client.post("/events?pod=a&model=m", CREATED)

        async def counted() -> bool:
            return bool(service.counts["snapshot-failed"])

        await until(counted)
        assert await client.matched("a") == (4, 0.9)

    serve(work, snapshot=tmp_path / "gone" / "index", snapshot_period=0.05)


def test_what_cannot_be_had_is_said_at_the_start() -> None:
    async def start(**options: Any) -> None:
        service = Indexer(IndexerOptions(**options))
        try:
            await service.start()
        finally:
            await service.stop()

    with socket.create_server((LOCAL, 0)) as taken:
        with pytest.raises(StartupError, match="--port"):
            asyncio.run(start(port=taken.getsockname()[1]))
        with pytest.raises(StartupError, match="KV-cache events"):
            asyncio.run(start(port=0, bind=f"tcp://{LOCAL}:{taken.getsockname()[1]}"))
    with pytest.raises(ConfigError):
        asyncio.run(start(port=0, endpoints=EndpointOptions(urls=("ftp://x",))))
