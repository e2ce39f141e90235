"""Real ZeroMQ sockets, with the simulated pods' publisher at the other end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio
from tests.kvcache.sinks import DictSink

from pointsman.clock import SystemClock
from pointsman.errors import StartupError
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.following import END_OF_REPLAY
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.sources import EventSource, sources_of
from pointsman.kvcache.stream_types import StreamOptions
from pointsman.kvcache.subscriber import Subscriber, SubscriberOptions
from pointsman.sim.events import EventPublisher
from pointsman.sim.kv import BlocksRemoved, BlocksStored
from pointsman.sim.profiles import find_profile
from pointsman.sim.server import PodOptions, SimulatedPod

SIZE = 2
LOCAL = "127.0.0.1"


class Rig:
    """A subscriber whose views share a sink; every pod it is asked for is known."""

    def __init__(self, options: SubscriberOptions | None = None) -> None:
        self.sink = DictSink()
        self.views: dict[tuple[str, int], PodView] = {}
        self.models: list[str] = []
        self.subscriber = Subscriber(self.make, SystemClock(), options)

    def make(self, pod: str, rank: int, model: str) -> PodView | None:
        if pod == "stranger":
            return None
        self.models.append(model)
        view = self.views[pod, rank] = PodView(self.sink, len(self.views), "m")
        return view

    async def until(self, condition: Callable[[], bool], seconds: float = 8.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - conditions are of any kind
                await asyncio.sleep(0.01)


def run(work: Callable[[Rig], Coroutine[Any, Any, None]], options: SubscriberOptions | None = None) -> None:
    async def main() -> None:
        rig = Rig(options)
        rig.subscriber.start()
        try:
            await work(rig)
        finally:
            await rig.subscriber.stop()

    asyncio.run(main())


def publisher(port: str = "*", *, buffer: int = 100) -> EventPublisher:
    made = EventPublisher(f"tcp://{LOCAL}:{port}", f"tcp://{LOCAL}:*", "kv@p@m", SIZE, buffer_steps=buffer)
    made.start()
    return made


def block(number: int) -> BlocksStored:
    return BlocksStored([number], None, [number, number], None, "")


def test_late_start_replay_and_live_events() -> None:
    async def work(rig: Rig) -> None:
        pub = publisher()
        for number in range(5):
            pub.publish([block(number)], float(number))
        rig.subscriber.add("p", sources_of(pub.sources(), LOCAL))
        await rig.until(lambda: bool(rig.views) and rig.views["p", 0].live == {("GPU", 0): 5})
        pub.publish([block(7), BlocksRemoved([0])], 9.0)
        await rig.until(lambda: rig.views["p", 0].hashes() == {1, 2, 3, 4, 7})
        (status,) = rig.subscriber.status()
        assert (status.batches, status.replays, status.gaps, status.confidence) == (6, 1, 0, 1.0)
        assert rig.subscriber.confidence("p") == 1.0
        rig.subscriber.remove("p")
        assert (rig.sink.keys, rig.subscriber.confidence("p"), rig.subscriber.status()) == ({}, 0.0, [])
        await pub.stop()

    run(work)


def test_a_restarted_engine_on_the_same_port() -> None:
    async def work(rig: Rig) -> None:
        pub = publisher()
        rig.subscriber.add("p", sources_of(pub.sources(), LOCAL))
        port = str(pub.sources()["0"]["endpoint"]).rpartition(":")[2]
        pub.publish([block(1)], 1.0)
        await rig.until(lambda: rig.views["p", 0].hashes() == {1})
        await pub.stop()
        await rig.until(lambda: not rig.subscriber.status()[0].connected)
        assert rig.subscriber.confidence("p") == 0.0
        again = publisher(port)
        await rig.until(lambda: rig.subscriber.status()[0].connected)
        await asyncio.sleep(0.2)  # the subscription itself follows the handshake
        again.publish([block(2)], 100.0)
        await rig.until(lambda: rig.views["p", 0].hashes() == {2})
        assert rig.subscriber.status()[0].restarts == 1
        await again.stop()

    run(work, SubscriberOptions(stream=StreamOptions(replay_idle=0.3)))


def test_a_dead_replay_socket_does_not_stop_indexing() -> None:
    async def work(rig: Rig) -> None:
        pub = publisher()
        pub.publish([block(1)], 1.0)
        endpoint = str(pub.sources()["0"]["endpoint"])
        rig.subscriber.add("p", [EventSource(endpoint, f"tcp://{LOCAL}:1", topic="kv@")])
        await rig.until(lambda: rig.subscriber.status()[0].connected)
        await asyncio.sleep(0.2)
        pub.publish([block(2)], 2.0)
        await rig.until(lambda: rig.views["p", 0].hashes() == {2})
        status = rig.subscriber.status()[0]
        assert (status.failed_replays >= 1, status.confidence) == (True, 0.5)
        await pub.stop()

    run(work, SubscriberOptions(stream=StreamOptions(replay_idle=0.3)))


def test_replays_of_old_engines_have_no_topic() -> None:
    async def work(rig: Rig) -> None:
        pub = publisher()
        context = zmq.asyncio.Context()
        router = context.socket(zmq.ROUTER)
        port = router.bind_to_random_port(f"tcp://{LOCAL}")
        rig.subscriber.add("p", [EventSource(str(pub.sources()["0"]["endpoint"]), f"tcp://{LOCAL}:{port}")])
        client, empty, start = await asyncio.wait_for(router.recv_multipart(), 5)
        assert (empty, start) == (b"", bytes(8))
        payload = msgspec.msgpack.encode([1.5, [["BlockStored", [5], None, [1, 2], 2, None]], 0])
        await router.send_multipart([client, b"", bytes(8), payload])
        await router.send_multipart([client, b"", END_OF_REPLAY, b""])
        await rig.until(lambda: bool(rig.views) and rig.views["p", 0].hashes() == {5})
        assert rig.subscriber.confidence("p") == 1.0
        context.destroy(linger=0)
        await pub.stop()

    run(work)


def test_pods_that_connect_to_one_bound_address() -> None:
    async def work(rig: Rig) -> None:
        address = rig.subscriber.bind(f"tcp://{LOCAL}:*")
        with pytest.raises(StartupError, match="cannot receive"):
            rig.subscriber.bind(address)
        context = zmq.asyncio.Context()
        sockets = [context.socket(zmq.PUB) for _ in range(2)]
        for socket in sockets:
            socket.connect(address)
        await asyncio.sleep(0.3)

        def payload(number: int, rank: int) -> bytes:
            return msgspec.msgpack.encode([1.0, [["BlockStored", [number], None, [1, 2], 2, None]], rank])

        for name, socket, rank in (("a", sockets[0], 0), ("b", sockets[1], 1), ("stranger", sockets[1], 0)):
            await socket.send_multipart([f"kv@{name}@tiny".encode(), bytes(8), payload(1, rank)])
        await sockets[0].send_multipart([b"kv@a@tiny", (1).to_bytes(8, "big"), b"\xc1"])
        await sockets[0].send_multipart([b"kv@b@tiny", b"x", payload(1, 1)])
        await sockets[0].send_multipart([b"kv@b@tiny"])
        await sockets[0].send_multipart([b"kv@", bytes(8), b""])
        await rig.until(lambda: sum(rig.subscriber.counts.values()) >= 4)
        assert rig.subscriber.counts == {"unknown-pod": 1, "bad-frames": 2, "bad-topic": 1}
        assert {key: view.live for key, view in rig.views.items()} == {
            ("a", 0): {("GPU", 0): 1},
            ("b", 1): {("GPU", 0): 1},
        }
        assert rig.models == ["tiny", "tiny"]
        assert [status.bad for status in rig.subscriber.status()] == [1, 0]
        context.destroy(linger=0)

    run(work)


def test_a_pod_that_connects_to_us_is_believed_while_idle_and_not_when_silent_at_work() -> None:
    async def work(rig: Rig) -> None:
        address = rig.subscriber.bind(f"tcp://{LOCAL}:*")
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PUB)
        socket.connect(address)
        await asyncio.sleep(0.3)

        async def publish(number: int) -> None:
            payload = msgspec.msgpack.encode([1.0, [["BlockStored", [number], None, [1, 2], 2, None]], 0])
            await socket.send_multipart([b"kv@a@tiny", number.to_bytes(8, "big"), payload])

        await publish(0)
        await rig.until(lambda: rig.subscriber.confidence("a") == 1.0)
        await asyncio.sleep(1.0)
        assert rig.subscriber.confidence("a") == 1.0, "idle"
        rig.subscriber.expect("a")
        await publish(1)
        await rig.until(lambda: rig.views["a", 0].hashes() == {0, 1})
        await asyncio.sleep(1.0)
        assert rig.subscriber.confidence("a") == 1.0, "its work was heard of"
        rig.subscriber.expect("a")
        rig.subscriber.expect("stranger")
        await rig.until(lambda: rig.subscriber.confidence("a") == 0.0)
        await publish(2)
        await rig.until(lambda: rig.subscriber.confidence("a") == 1.0)
        context.destroy(linger=0)

    run(work, SubscriberOptions(silent_bound=0.5))


def test_any_bytes_on_the_socket_leave_the_index_unharmed() -> None:
    async def work(rig: Rig) -> None:
        address = rig.subscriber.bind(f"tcp://{LOCAL}:*", prefix="")
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PUB)
        socket.sndhwm = 0
        socket.connect(address)
        await asyncio.sleep(0.3)
        rng = random.Random(5)
        good = msgspec.msgpack.encode([1.5, [["BlockStored", [5], None, [1, 2], 2, None]], 0])
        for _ in range(2000):
            payload = bytearray(good)
            for _ in range(rng.randrange(4)):
                payload[rng.randrange(len(payload))] = rng.randrange(256)
            frames = [b"kv@stranger@m", rng.randbytes(8), bytes(payload)]
            if rng.random() < 0.3:
                frames = [rng.randbytes(rng.randrange(12)) for _ in range(rng.randrange(1, 6))]
            await socket.send_multipart(frames)
        await socket.send_multipart([b"kv@a@m", bytes(8), good])
        await rig.until(lambda: ("a", 0) in rig.views and bool(rig.views["a", 0].live))
        assert list(rig.views) == [("a", 0)]
        assert rig.sink.tiers(0) == {0: 1}
        context.destroy(linger=0)

    run(work)


def test_ingestion_leaves_room_for_picks() -> None:
    async def work(rig: Rig) -> None:
        pub = publisher(buffer=20_000)
        for number in range(5000):
            pub.publish([block(number)], float(number))
        rig.subscriber.add("p", sources_of(pub.sources(), LOCAL))
        seen: set[int] = set()
        async with asyncio.timeout(15):
            while max(seen, default=0) < 5000:
                await asyncio.sleep(0)  # a pick would run here
                seen.add(rig.views["p", 0].live.get(("GPU", 0), 0))
        await pub.stop()
        assert len(seen) > 5  # it came in slices, with turns for others in between

    run(work)


def test_sources_are_asked_for_until_they_are_there() -> None:
    async def work(rig: Rig) -> None:
        pub = publisher()
        pub.publish([block(1)], 1.0)
        answers: list[Any] = [OSError("refused"), {}, pub.sources()]

        async def fetch() -> Any:
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer

        rig.subscriber.discover("p", LOCAL, fetch, "m")
        await rig.until(lambda: bool(rig.views) and rig.views["p", 0].hashes() == {1})
        await pub.stop()

    run(work)


def test_a_simulated_pod_from_before_we_came() -> None:
    async def work(rig: Rig) -> None:
        profile = find_profile("qwen3-8b-1xh100")
        pod = SimulatedPod(PodOptions("p", profile, events_port=-1, replay_port=-1, time_scale=50))
        await pod.start()
        size, tokens = profile.block_size, [token % 997 for token in range(200)]
        root = root_key("m")
        try:
            await complete(pod, tokens)
            rig.subscriber.add("p", sources_of(pod.sources(), LOCAL))
            keys = token_block_keys(tokens, size, root)
            await rig.until(lambda: rig.sink.leading(0, keys) == len(keys))
            assert rig.views["p", 0].block_size == size
            more = tokens + [7] * 100
            await complete(pod, more)
            keys = token_block_keys(more, size, root)
            await rig.until(lambda: rig.sink.leading(0, keys) == len(keys))
            assert rig.subscriber.status()[0].gaps == 0
        finally:
            await pod.stop()

    run(work)


async def complete(pod: SimulatedPod, tokens: list[int]) -> None:
    import aiohttp  # noqa: PLC0415 - one test speaks HTTP

    body = {"model": pod.model, "prompt": tokens, "max_tokens": 4}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{LOCAL}:{pod.port}/v1/completions", json=body) as response,
    ):
        assert response.status == 200
        await response.read()
