"""KV-cache events over ZeroMQ: from pods we connect to, and from pods that connect to us."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from pointsman.clock import Clock
from pointsman.errors import StartupError
from pointsman.kvcache.backlog import CatchUp
from pointsman.kvcache.following import MAX_PAYLOAD, Following, StreamStatus, View, read
from pointsman.kvcache.sources import EventSource, parse_topic, sources_of
from pointsman.kvcache.stream_types import StreamOptions

TOPIC_PREFIX = "kv@"
HIGH_WATER_MARK = 100_000
RECONNECT_MS = (100, 5_000)
HEARTBEAT_MS = 5_000
MAX_BACKOFF = 30.0

MakeView = Callable[[str, int, str], View | None]
"""View for (pod, rank, model), None when the pod is not known (yet); the model is empty when nothing says it."""


class SubscriberOptions(msgspec.Struct, frozen=True):
    """Knobs of the subscriber, in seconds."""

    slice: float = 0.0003
    """Work per turn of the event loop, over all sockets together: what a pick waits for at most, but for one batch
    (of no more than 512 blocks: longer ones are applied in pieces, turn by turn)."""
    tick: float = 0.05
    stream: StreamOptions = StreamOptions()
    silent_bound: float = 3.0
    """Patience with the silence of a pod that connects to us: that it is gone shows in nothing else. A pod at work
    sends a batch every few steps, whoever's request it was; only a prefill of seconds in one step is taken for dead,
    until it ends."""


class Subscriber:
    """Follows the streams of many pods on the running event loop.

    Args:
        make_view: gives the view that a pod's events are applied to.
        clock: time.
        options: knobs.
    """

    def __init__(self, make_view: MakeView, clock: Clock, options: SubscriberOptions | None = None) -> None:
        self.counts: Counter[str] = Counter()
        """Messages that belong to no stream, by reason."""
        self._make_view, self._clock = make_view, clock
        self._options = options or SubscriberOptions()
        self._context = zmq.asyncio.Context()
        self._streams: dict[tuple[str, int], Following] = {}
        self._tasks: dict[str, set[asyncio.Task[None]]] = {}  # by pod; "" for what belongs to none
        self._replays: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._catch_up = CatchUp(clock, self._options.slice, self._turn)

    def start(self) -> None:
        """Begin to watch the clock; needs a running event loop."""
        self._spawn("", self._tick())
        self._spawn("", self._catch_up.run())

    async def stop(self) -> None:
        """Close everything; views keep what they hold."""
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    def bind(self, address: str, *, prefix: str = TOPIC_PREFIX) -> str:
        """Let pods connect to us; returns the address really bound.

        Raises:
            StartupError: if the address cannot be had.
        """
        socket = self._socket(zmq.SUB)
        socket.subscribe(prefix)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise StartupError(f"cannot receive KV-cache events at {address}: {error.strerror}") from error
        self._spawn("", self._read(socket, self._from_anyone))
        return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def add(self, pod: str, sources: Iterable[EventSource], model: str = "") -> None:
        """Follow a pod at its publishers; one that is followed already is left as it is."""
        for source in sources:
            if (pod, source.rank) in self._streams:
                continue
            following = self._follow(pod, source.rank, model, source.replay)
            if following:
                self._spawn(pod, self._subscribe(source, following))

    def discover(self, pod: str, host: str, fetch: Callable[[], Awaitable[Any]], model: str = "") -> None:
        """Follow a pod at the publishers it names; asks again, ever less often, until it names one.

        Args:
            pod: whose.
            host: its address.
            fetch: gets the JSON of ``/kv_event_sources`` or ``/server_info``; may raise OSError or TimeoutError.
            model: what the view is made for.
        """

        async def ask() -> None:
            pause = 0.5
            while True:
                with contextlib.suppress(OSError, asyncio.TimeoutError):
                    sources = sources_of(await fetch(), host)
                    if sources:
                        self.add(pod, sources, model)
                        return
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_BACKOFF)

        self._spawn(pod, ask())

    def remove(self, pod: str) -> None:
        """Forget a pod: close its sockets, empty its views."""
        for task in self._tasks.pop(pod, ()):
            task.cancel()
        for key in [key for key in self._streams if key[0] == pod]:
            self._replays.pop(key, None)
            self._streams.pop(key).forget()

    def expect(self, pod: str) -> None:
        """A pod was handed a request that should cause events."""
        following = self._streams.get((pod, 0))  # a look at all streams would cost a pick among 500 of them 30 us
        if following is not None:
            following.stream.expect(self._clock.now())

    def status(self) -> list[StreamStatus]:
        """Every stream."""
        now = self._clock.now()
        return [following.status(now) for following in self._streams.values()]

    def confidence(self, pod: str, rank: int = 0) -> float:
        """How far a view can be trusted, 0 to 1; 0 for a pod not followed."""
        following = self._streams.get((pod, rank))
        return following.confidence(self._clock.now()) if following else 0.0

    def position(self, pod: str, rank: int = 0) -> tuple[int, float]:
        """Number and engine time stamp of the newest batch applied; (-1, -inf) for none."""
        following = self._streams.get((pod, rank))
        return following.stream.position if following else (-1, -math.inf)

    def lag(self, pod: str, rank: int = 0) -> float:
        """Seconds by which a pod's events are late, smoothed; NaN when not known."""
        following = self._streams.get((pod, rank))
        return following.stream.lag if following else math.nan

    def _of(self, pod: str) -> list[Following]:
        return [following for key, following in self._streams.items() if key[0] == pod]

    def _follow(self, pod: str, rank: int, model: str, replay: str, *, bound: bool = False) -> Following | None:
        view = self._make_view(pod, rank, model)
        if view is None:
            return None
        options = msgspec.structs.replace(self._options.stream, can_replay=bool(replay))
        if bound:
            options = msgspec.structs.replace(options, silent_after=self._options.silent_bound)

        def ask(start: int) -> None:
            self._replay(following, replay, start)

        following = self._streams[pod, rank] = Following(pod, rank, view, options, ask, self._catch_up.add)
        return following

    # -- sockets --------------------------------------------------------------------------------------------------

    def _socket(self, kind: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = HIGH_WATER_MARK
        socket.maxmsgsize = MAX_PAYLOAD
        socket.ipv6 = True
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS
        socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, 3 * HEARTBEAT_MS
        return socket

    async def _subscribe(self, source: EventSource, following: Following) -> None:
        socket = self._socket(zmq.SUB)
        socket.subscribe(source.topic)
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            socket.connect(source.endpoint)
        except zmq.ZMQError:
            self.counts["bad-endpoint"] += 1
            socket.close(linger=0)
            return

        def take(frames: list[bytes]) -> None:
            self._take(frames, following)

        watch = asyncio.create_task(self._watch(monitor, following))
        try:
            await self._read(socket, take)
        finally:
            watch.cancel()
            monitor.close(linger=0)

    async def _watch(self, monitor: Any, following: Following) -> None:
        """Follow the connection. ZeroMQ makes it again by itself, with growing pauses."""
        while True:
            event = await recv_monitor_message(monitor)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                following.online(self._clock.now())
            else:
                following.connected = False

    async def _read(self, socket: zmq.asyncio.Socket, take: Callable[[list[bytes]], object]) -> None:
        """Hand over messages until cancelled, or until ``take`` returns true."""
        # The same socket without futures, for messages that are already here.
        at_once: zmq.Socket[bytes] = zmq.Socket.shadow(socket)
        try:
            while True:
                frames = await socket.recv_multipart()
                await self._catch_up.wait()
                async with self._turn:  # one slice per turn of the loop, however many sockets have news
                    if self._slice(frames, at_once, take):
                        return
                    await asyncio.sleep(0)
        finally:
            socket.close(linger=0)

    def _slice(self, frames: list[bytes], socket: zmq.Socket[bytes], take: Callable[[list[bytes]], object]) -> bool:
        """Work through what is here, for a while; whether ``take`` has enough."""
        end = self._clock.now() + self._options.slice
        while not take(frames):
            if self._catch_up.behind or self._clock.now() >= end:
                return False
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
        return True

    def _from_anyone(self, frames: list[bytes]) -> None:
        """A message on the bound socket: its topic and batch say whose it is."""
        who = parse_topic(frames[0]) if len(frames) == 3 else None
        if who is None:
            self.counts["bad-frames" if len(frames) != 3 else "bad-topic"] += 1
            return
        pod, model = who
        batch = read(frames[2])
        ranks = self._of(pod)
        rank = batch.rank if batch else ranks[0].rank if len(ranks) == 1 else None
        if rank is None:
            self.counts["bad-payload"] += 1
            return
        following = self._streams.get((pod, rank)) or self._follow(pod, rank, model, "", bound=True)
        if following is None:
            self.counts["unknown-pod"] += 1
            return
        following.connected = True
        self._take(frames, following)

    def _take(self, frames: list[bytes], following: Following) -> None:
        if len(frames) != 3 or len(frames[1]) != 8:
            self.counts["bad-frames"] += 1
            return
        sequence = int.from_bytes(frames[1], "big")
        following.message(sequence, read(frames[2]), self._clock.now(), self._clock.wall())

    def _replay(self, following: Following, endpoint: str, start: int) -> None:
        key = (following.pod, following.rank)
        before = self._replays.get(key)
        if before:
            before.cancel()

        async def run() -> None:
            socket = self._socket(zmq.DEALER)
            try:
                socket.connect(endpoint)
                await socket.send_multipart([b"", start.to_bytes(8, "big")])
            except zmq.ZMQError:
                self.counts["bad-endpoint"] += 1
                socket.close(linger=0)
                return
            await self._read(socket, lambda frames: following.reply(frames, self._clock.now()))

        self._replays[key] = self._spawn(following.pod, run())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._options.tick)
            now = self._clock.now()
            for key, following in list(self._streams.items()):
                if following.stream.waiting:
                    following.act(following.stream.tick(now))
                elif key in self._replays:
                    self._replays.pop(key).cancel()  # given up, or done

    def _spawn(self, pod: str, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        tasks = self._tasks.setdefault(pod, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task
