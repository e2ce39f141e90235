"""KV-cache events on ZeroMQ, as vLLM 0.32 sends them.

A PUB socket carries ``[topic, sequence number (8 bytes, big-endian, from 0), payload]``; the payload is the MessagePack
array ``[wall time, events, data-parallel rank]`` with events as maps. A ROUTER socket replays what the buffer still
holds: ``[b"", start]`` is answered by ``[b"", topic, sequence number, payload]`` per batch and an end marker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable

import msgspec
import zmq
import zmq.asyncio

from pointsman.errors import StartupError
from pointsman.sim.kv import BlocksRemoved, BlocksStored, CacheEvent

END_OF_REPLAY = b"\xff" * 8
HIGH_WATER_MARK = 100_000


class _Stored(msgspec.Struct, tag_field="type", tag="BlockStored"):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[list[str] | None]
    group_idx: int = 0
    kv_cache_spec_kind: str = "full_attention"


class _Removed(msgspec.Struct, tag_field="type", tag="BlockRemoved"):
    block_hashes: list[int]
    medium: str | None = "GPU"
    group_idx: int = 0


class _Cleared(msgspec.Struct, tag_field="type", tag="AllBlocksCleared"):
    pass


_Wire = _Stored | _Removed | _Cleared


def _wire(event: CacheEvent, block_size: int) -> Iterable[_Wire]:
    if isinstance(event, BlocksStored) and not len(event.token_ids):
        yield _Stored(event.keys, None, [], block_size, None, event.medium, None, [None] * len(event.keys))
    elif isinstance(event, BlocksStored):
        rest: list[str] | None = [event.adapter] if event.adapter else None
        extra = [rest] * len(event.keys)
        if event.salt and event.parent is None:
            extra[0] = [*(rest or ()), event.salt]  # the salt seeds the first block only
        lora_id = 1 if event.adapter else None
        tokens = list(event.token_ids)
        yield _Stored(event.keys, event.parent, tokens, block_size, lora_id, event.medium, event.adapter, extra)
    elif isinstance(event, BlocksRemoved):
        for key in event.keys:
            yield _Removed([key], event.medium)
    else:
        yield _Cleared()


def encode_batch(events: Iterable[CacheEvent], block_size: int, wall: float) -> bytes:
    """The payload of one batch; ``wall`` in seconds since 1970."""
    batch = [wall, [wire for event in events for wire in _wire(event, block_size)], 0]
    return msgspec.msgpack.encode(batch)


class EventPublisher:
    """One engine's PUB and ROUTER sockets. Endpoints may end in ``:*`` or ``:0`` for any free port.

    Args:
        endpoint: where PUB binds, such as ``tcp://*:5557``.
        replay_endpoint: where ROUTER binds.
        topic: first frame, by convention ``kv@<pod>@<model>``.
        block_size: tokens per block.
        buffer_steps: batches kept for replay.
    """

    def __init__(
        self, endpoint: str, replay_endpoint: str, topic: str, block_size: int, *, buffer_steps: int = 10_000
    ) -> None:
        self.topic = topic
        self.buffer_steps = buffer_steps
        self._endpoints = (endpoint, replay_endpoint)
        self._block_size = block_size
        self._sequence = 0
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer_steps)
        self._context: zmq.asyncio.Context | None = None
        self._pub: zmq.Socket[bytes] | None = None
        self._router: zmq.asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Bind; needs a running event loop.

        Raises:
            StartupError: if an address is taken; :meth:`stop` must be called all the same.
        """
        self._context = zmq.asyncio.Context()
        # Sending on PUB never blocks, so it needs no awaiting.
        self._pub = zmq.Context(self._context).socket(zmq.PUB)
        self._pub.sndhwm = HIGH_WATER_MARK
        self._router = self._context.socket(zmq.ROUTER)
        self._router.sndhwm = 2 * (self.buffer_steps + 1)
        for socket, endpoint in zip((self._pub, self._router), self._endpoints, strict=True):
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                raise StartupError(f"cannot publish KV-cache events at {endpoint}: {error.strerror}") from error
        self._task = asyncio.create_task(self._replay(self._router))

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for socket in (self._pub, self._router):
            if socket:
                socket.close(linger=0)
        if self._context:
            self._context.term()

    def publish(self, events: Iterable[CacheEvent], wall: float) -> None:
        """Send one batch."""
        payload = encode_batch(events, self._block_size, wall)
        number = self._sequence
        self._sequence += 1
        self._buffer.append((number, payload))
        if self._pub:
            self._pub.send_multipart([self.topic.encode(), number.to_bytes(8, "big"), payload], zmq.NOBLOCK)

    def sources(self) -> dict[str, dict[str, object]]:
        """What ``GET /kv_event_sources`` says, with the ports that were really bound."""
        endpoint, replay = (
            socket.getsockopt_string(zmq.LAST_ENDPOINT) if socket else text
            for socket, text in zip((self._pub, self._router), self._endpoints, strict=True)
        )
        source: dict[str, object] = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": endpoint.replace("//0.0.0.0:", "//*:"),
            "replay_endpoint": replay.replace("//0.0.0.0:", "//*:"),
            "buffer_steps": self.buffer_steps,
            "hwm": HIGH_WATER_MARK,
            "max_queue_size": HIGH_WATER_MARK,
            "topic": self.topic,
        }
        return {"0": source}

    async def _replay(self, router: zmq.asyncio.Socket) -> None:
        topic = self.topic.encode()
        while True:
            frames = await router.recv_multipart()
            if len(frames) != 3 or frames[1] or len(frames[2]) != 8:
                continue  # vLLM also ignores a request without the empty delimiter
            client, start = frames[0], int.from_bytes(frames[2], "big")
            for number, payload in list(self._buffer):
                if number >= start:
                    await router.send_multipart([client, b"", topic, number.to_bytes(8, "big"), payload])
            await router.send_multipart([client, b"", b"", END_OF_REPLAY, b""])
