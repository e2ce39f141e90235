"""The picker's index and its streams, with simulated pods that really publish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import msgspec
import pytest
import zmq
import zmq.asyncio
from tests.builders import make_request
from tests.requestcontrol.tokenizing.test_assemble import plan_of

from pointsman.api.endpoint import Endpoint
from pointsman.app import kv as module
from pointsman.app import up
from pointsman.app.kv import KvFeed, kv_events
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.sim.profiles import find_profile
from pointsman.sim.server import PodOptions, SimulatedPod

PLAIN = plan_of("plugins: []")
IDS = list(range(1000, 1064))


def precise(**events: Any) -> Any:
    return plan_of(f"plugins: [{{type: precise-prefix-cache-producer, parameters: {{kvEventsConfig: {events}}}}}]")


class Rig:
    """A feed over one simulated pod in a fresh process's state."""

    def __init__(self) -> None:
        self.datastore = Datastore(SystemClock())
        self.feed = KvFeed(self.datastore)
        self.pod = SimulatedPod(
            PodOptions("pod-0", find_profile("qwen3-8b-1xh100"), model="m", time_scale=50, events_port=-1)
        )

    def spec(self, **labels: str) -> EndpointSpec:
        return EndpointSpec("pod-0", "127.0.0.1", self.pod.port, labels=labels)

    @property
    def endpoint(self) -> Endpoint:
        return self.datastore.all()[0]

    @property
    def ports(self) -> dict[str, int]:
        (source,) = self.pod.sources().values()
        return {name: int(str(source[name]).rpartition(":")[2]) for name in ("endpoint", "replay_endpoint")}

    def held(self) -> int:
        found = self.feed.fleet.match(make_request(token_ids=(*IDS, 1)), self.datastore.all())
        return found.tokens.get(0, 0) if found else 0

    async def ask(self) -> None:
        url = f"http://127.0.0.1:{self.pod.port}/v1/completions"
        async with aiohttp.ClientSession() as session:
            body = {"model": "m", "prompt": IDS, "max_tokens": 2}
            async with session.post(url, json=body) as answer:
                assert answer.status == 200

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not condition():  # noqa: ASYNC110 - conditions are of any kind
                await asyncio.sleep(0.02)


def run(work: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        rig = Rig()
        await rig.pod.start()
        try:
            await work(rig)
        finally:
            await rig.feed.stop()
            await rig.pod.stop()

    asyncio.run(main())


def test_without_a_precise_producer_nobody_is_asked() -> None:
    async def work(rig: Rig) -> None:
        rig.feed.use(PLAIN)
        rig.datastore.set_endpoints([rig.spec()])
        await rig.ask()
        await asyncio.sleep(0.2)
        assert rig.feed.fleet.describe(rig.endpoint) is None
        assert rig.held() == 0

    run(work)
    assert kv_events(PLAIN) is None


@pytest.mark.parametrize("way", ["asked", "label", "parameter"])
def test_a_pods_events_are_found_and_what_was_before_us_is_had_again(way: str) -> None:
    async def work(rig: Rig) -> None:
        ports = rig.ports
        labels, events = {}, {}
        if way == "label":
            labels = {"kv-events-port": str(ports["endpoint"]), "kv-replay-port": str(ports["replay_endpoint"])}
        if way == "parameter":
            events = {
                "podDiscoveryConfig": {"socketPort": ports["endpoint"], "replaySocketPort": ports["replay_endpoint"]}
            }
        await rig.ask()
        rig.datastore.set_endpoints([rig.spec(**labels)])
        rig.feed.use(precise(**events))
        await rig.until(lambda: rig.held() == 64)
        await rig.until(lambda: rig.feed.fleet.confidence(rig.endpoint.id) == 1.0)
        described = rig.feed.fleet.describe(rig.endpoint)
        assert described is not None
        assert described["blocks"]["gpu"] >= 4

    run(work)


def test_endpoints_come_and_go_and_so_does_the_plan() -> None:
    async def work(rig: Rig) -> None:
        rig.feed.use(precise())
        rig.datastore.set_endpoints([rig.spec()])
        await rig.ask()
        await rig.until(lambda: rig.held() == 64)
        rig.datastore.set_endpoints([])
        rig.datastore.set_endpoints([rig.spec()])
        assert rig.held() == 0
        await rig.until(lambda: rig.held() == 64)
        rig.feed.use(PLAIN)
        assert rig.held() == 0
        rig.feed.use(precise())
        await rig.until(lambda: rig.held() == 64)

    run(work)


def test_a_pod_that_comes_back_elsewhere_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEND_PERIOD", 0.2)

    async def work(rig: Rig) -> None:
        rig.feed.use(precise())
        rig.datastore.set_endpoints([rig.spec()])
        await rig.until(lambda: rig.feed.fleet.confidence(rig.endpoint.id) == 1.0)
        port = rig.pod.port
        await rig.pod.stop()
        await rig.until(lambda: rig.feed.fleet.confidence(rig.endpoint.id) == 0.0)
        options = PodOptions(
            "pod-0", find_profile("qwen3-8b-1xh100"), port=port, model="m", time_scale=50, events_port=-1
        )
        rig.pod = SimulatedPod(options)
        await rig.pod.start()
        await rig.ask()
        await rig.until(lambda: rig.held() == 64)
        await rig.until(lambda: rig.feed.fleet.confidence(rig.endpoint.id) == 1.0)

    run(work)


@pytest.mark.parametrize("name", ["pod-0", "127.0.0.1", "default/pod-0"])
def test_pods_may_connect_to_us(name: str, free_port: int) -> None:
    address = f"tcp://127.0.0.1:{free_port}"

    async def work(rig: Rig) -> None:
        rig.feed.use(precise(zmqEndpoint=address))
        rig.datastore.set_endpoints([rig.spec()])
        stored = {
            "type": "BlockStored",
            "block_hashes": [1, 2],
            "parent_block_hash": None,
            "token_ids": IDS[:32],
            "block_size": 16,
        }
        payload = msgspec.msgpack.encode([0.0, [stored], 0])
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PUB)
        socket.connect(address)
        try:
            async with asyncio.timeout(8):
                while rig.held() != 32:  # what is sent before the connection stands is lost
                    await socket.send_multipart([f"kv@{name}@m".encode(), bytes(8), payload])
                    await asyncio.sleep(0.02)
            await rig.until(lambda: rig.feed.fleet.confidence(rig.endpoint.id) == 1.0)
            # It is given work, and nothing comes: within seconds it is not believed any more.
            endpoint = rig.endpoint
            rig.feed.fleet.expect(endpoint.id)
            await rig.until(lambda: rig.feed.fleet.confidence(endpoint.id) == 0.0)
            rig.datastore.set_endpoints([])
            assert rig.feed.fleet.describe(endpoint) is None or rig.feed.fleet.index.memory_blocks(0) == 0
        finally:
            context.destroy(linger=0)

    run(work)


@pytest.fixture
def free_port() -> int:
    return up.free_port()


def test_an_address_that_cannot_be_bound_costs_knowledge_and_nothing_else() -> None:
    async def work(rig: Rig) -> None:
        rig.datastore.set_endpoints([rig.spec()])
        rig.feed.use(precise(zmqEndpoint="tcp://256.0.0.1:1"))
        await asyncio.sleep(0.1)
        assert rig.feed.fleet.confidence(rig.endpoint.id) == 0.0
        rig.datastore.set_endpoints([])

    run(work)
