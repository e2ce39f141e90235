"""Indexers and pickers that share over a real Redis, with simulated pods that really publish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.builders import make_request
from tests.console.indexer_rig import CREATED, LOCAL, Client
from tests.kvcache.redis_rig import FAST, RedisServer, until
from tests.requestcontrol.tokenizing.test_assemble import plan_of

from pointsman.api.endpoint import EndpointId
from pointsman.app import sharing as module
from pointsman.app.indexer import Indexer, IndexerOptions
from pointsman.app.kv import KvFeed
from pointsman.app.sharing import SharingOptions, sharing_options
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.kvcache import snapshot as disk
from pointsman.sim.profiles import find_profile
from pointsman.sim.server import PodOptions, SimulatedPod

IDS = list(range(1000, 1064))
POD = EndpointId("default/pod-0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


def plan(server: RedisServer, *, deaf: bool = False) -> Any:
    """Deaf: connects to a port where nobody publishes."""
    index = {"kvBlockIndexConfig": {"redisConfig": {"address": server.url, "scope": "p"}}}
    events = {"podDiscoveryConfig": {"socketPort": 9 if deaf else 0}}
    parameters = {"indexerConfig": index, "kvEventsConfig": events}
    return plan_of(f"plugins: [{{type: precise-prefix-cache-producer, parameters: {parameters}}}]")


class Picker:
    """As much of a picker as knows of KV caches."""

    def __init__(self, pod: SimulatedPod) -> None:
        self.datastore = Datastore(SystemClock())
        self.feed = KvFeed(self.datastore)
        self.datastore.set_endpoints([EndpointSpec("pod-0", LOCAL, pod.port)])

    def known(self) -> tuple[int, int]:
        """Tokens that are known to be held, and that are remembered."""
        found = self.feed.fleet.match(make_request(token_ids=(*IDS, 1)), self.datastore.all())
        assert found is not None
        return found.tokens.get(0, 0), found.remembered.get(0, 0)


async def ask(pod: SimulatedPod) -> None:
    async with aiohttp.ClientSession() as session:
        body = {"model": "m", "prompt": IDS, "max_tokens": 2}
        async with session.post(f"http://{LOCAL}:{pod.port}/v1/completions", json=body) as answer:
            assert answer.status == 200


def run(work: Callable[[SimulatedPod], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module,
        "SharingOptions",
        lambda url, scope: SharingOptions(url, scope, FAST),
    )

    async def main() -> None:
        pod = SimulatedPod(
            PodOptions("pod-0", find_profile("qwen3-8b-1xh100"), model="m", time_scale=50, events_port=-1)
        )
        await pod.start()
        try:
            await work(pod)
        finally:
            await pod.stop()

    asyncio.run(main())


def test_a_picker_that_reaches_no_pod_knows_what_another_hears(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(pod: SimulatedPod) -> None:
        near, far = Picker(pod), Picker(pod)
        near.feed.use(plan(server))
        far.feed.use(plan(server, deaf=True))
        try:
            await ask(pod)
            await until(lambda: near.known() == (64, 0))
            await until(lambda: near.feed.sharing.leases == 1)
            await until(lambda: far.known() == (64, 0))
            assert far.feed.fleet.confidence(POD) == 0.9
            assert int(server.meta("p", POD)[b"seq"]) >= 0
            await near.feed.stop()
            await until(lambda: far.feed.fleet.confidence(POD) == 0.3)
            assert far.known() == (0, 64)
            far.datastore.set_endpoints([])
            await until(lambda: not server.meta("p", POD))
        finally:
            await near.feed.stop()
            await far.feed.stop()

    run(work, monkeypatch)


def test_a_plan_that_shares_no_more_lets_go(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(pod: SimulatedPod) -> None:
        picker = Picker(pod)
        picker.feed.use(plan(server))
        try:
            await ask(pod)
            await until(lambda: picker.feed.sharing.leases == 1 and picker.known() == (64, 0))
            bare = plan_of("plugins: [{type: precise-prefix-cache-producer}]")
            assert sharing_options(bare) is None
            picker.feed.use(bare)
            await until(lambda: picker.known() == (64, 0))
            assert (picker.feed.sharing.leases, picker.feed.sharing.counts, picker.feed.sharing.connected) == (
                0,
                {},
                False,
            )
            with server.client() as client:
                await until(lambda: not list(client.scan_iter("pointsman:{p}:lease:*")))
            assert server.meta("p", POD)
        finally:
            await picker.feed.stop()

    run(work, monkeypatch)


def test_a_picker_starts_warm_from_its_snapshot(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kv.snapshot"
    bare = plan_of("plugins: [{type: precise-prefix-cache-producer}]")

    async def work(pod: SimulatedPod) -> None:
        before = Picker(pod)
        before.feed.use(bare)
        await before.feed.keep_snapshot(path, 60.0)
        await ask(pod)
        await until(lambda: before.known() == (64, 0))
        await before.feed.stop()
        after = Picker(pod)
        after.feed.use(plan(server, deaf=True))
        await after.feed.keep_snapshot(path, 0.05)
        assert after.known() == (0, 64)
        path.unlink()
        await until(path.exists)
        await after.feed.stop()
        found = disk.read(path)
        assert found is not None
        assert [holder.pod for holder in found.holders] == [POD]
        heard = Picker(pod)
        heard.feed.use(bare)
        await heard.feed.keep_snapshot(path, 60.0)
        await until(lambda: heard.known() == (64, 0))
        await heard.feed.stop()

    run(work, monkeypatch)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, msgspec.msgpack.encode({"wall": 0.0, "holders": [], "version": 9})]
)
def test_a_snapshot_that_is_none_is_a_cold_start(
    content: bytes, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kv.snapshot"
    path.write_bytes(content)

    async def work(pod: SimulatedPod) -> None:
        picker = Picker(pod)
        picker.feed.use(plan(server, deaf=True))
        await picker.feed.keep_snapshot(path, 60.0)
        assert picker.known() == (0, 0)
        assert picker.feed._snapshot is not None
        assert picker.feed._snapshot.counts["snapshot-refused"] == 1
        await picker.feed.stop()
        assert disk.read(path) is not None  # the next start can use it

    run(work, monkeypatch)


def test_without_a_precise_producer_the_snapshot_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kv.snapshot"
    path.write_bytes(b"precious")

    async def work(pod: SimulatedPod) -> None:
        picker = Picker(pod)
        picker.feed.use(plan_of("plugins: []"))
        await picker.feed.keep_snapshot(path, 0.01)
        await picker.feed.stop()
        assert path.read_bytes() == b"precious"

    run(work, monkeypatch)


def test_indexers_share_what_was_pushed_to_one(server: RedisServer) -> None:
    async def work() -> None:
        options = IndexerOptions(port=0, shared=SharingOptions(server.url, "p", FAST))
        one, other = Indexer(options), Indexer(options)
        await one.start()
        await other.start()
        try:
            async with aiohttp.ClientSession() as session:
                near, far = Client(session, one.port), Client(session, other.port)
                await near.post("/events?pod=a&model=m", CREATED)
                async with asyncio.timeout(8):
                    while await far.matched("a") != (4, 0.9):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                assert [info.source for info in other.pods.infos()] == ["shared"]
                stats = msgspec.json.decode(await far.get("/stats"))
                assert stats["counts"]["shared-loads"] >= 1
            await one.stop()
            again = Indexer(options)
            await again.start()
            try:
                await until(lambda: [(info.pod, info.warm) for info in again.pods.infos()] == [("a", 4)])
            finally:
                await again.stop()
        finally:
            await one.stop()
            await other.stop()

    asyncio.run(work())
