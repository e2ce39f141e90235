"""A real redis-server on a port of its own, and replicas that share over it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import redis

from pointsman.clock import SystemClock
from pointsman.kvcache.kv_index import CPU, DISK, GPU, KVIndex
from pointsman.kvcache.remembered import Remembered
from pointsman.kvcache.residency import BlockSink
from pointsman.kvcache.shared import SharedOptions, SharedStore
from pointsman.kvcache.shared_keys import KEY_BYTES, Names, holder_name
from pointsman.kvcache.shared_writer import Facts, WriterOptions
from pointsman.kvcache.snapshot import unpack

TIERS = (GPU, CPU, DISK)
FAST = SharedOptions(
    flush=0.02, sweep=0.05, backoff=(0.02, 0.1), writer=WriterOptions(lease=3.0, alive=0.3, keep=60.0, pause=0.1)
)


class RedisServer:
    """Started and killed at will, on one port, in a folder of its own; nothing is kept on disk."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise RuntimeError("no redis-server: apt-get install redis-server (or valkey-server)")
        self._binary, self._folder = binary, folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._process = subprocess.Popen(
            [self._binary, *options, "--dir", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            with self.client() as client:
                try:
                    client.ping()
                except redis.ConnectionError:
                    time.sleep(0.02)
                else:
                    return
        raise RuntimeError("redis-server does not answer")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def client(self) -> Iterator[Any]:
        with closing(redis.Redis(port=self.port, protocol=2)) as client:
            yield client

    def content(self, scope: str, pod: str, rank: int = 0) -> list[set[int]]:
        """What is stored of a holder, by tier."""
        names = Names(scope)
        found = []
        with self.client() as client:
            for tier in TIERS:
                members = client.smembers(names.tier(holder_name(pod, rank), tier))
                assert all(len(member) == KEY_BYTES for member in members)
                found.append(set(unpack(b"".join(members))))
        return found

    def meta(self, scope: str, pod: str, rank: int = 0) -> Mapping[bytes, bytes]:
        with self.client() as client:
            found: Mapping[bytes, bytes] = client.hgetall(Names(scope).meta(holder_name(pod, rank)))
            return found


class Replica:
    """An index that hears some pods, and a memory of those it does not."""

    def __init__(self, url: str, scope: str, options: SharedOptions = FAST, pods: Sequence[str] = ("a", "b")) -> None:
        self.clock = SystemClock()
        self.index = KVIndex()
        self.pods = set(pods)
        self.sure: dict[str, float] = {}
        self.memory = Remembered(self.clock, lambda pod: self.sure.get(pod, 0.0) if pod in self.pods else None)
        self.notes: list[str] = []
        self.store = SharedStore(url, scope, self.memory, self.facts, self.clock, self._note, options)
        self._sinks: dict[str, tuple[BlockSink, int]] = {}

    def facts(self, pod: str, rank: int) -> Facts:
        return Facts(self.sure.get(pod, 0.0), 16, ("m",), 7, 1.5)

    def _note(self, event: str, details: Mapping[str, Any]) -> None:
        self.notes.append(event)

    def hears(self, pod: str) -> tuple[BlockSink, int]:
        """The sink and the slot of a pod that is heard well from now on."""
        if pod not in self._sinks:
            slot = len(self._sinks)
            self._sinks[pod] = self.store.tap(pod, 0, slot, self.index), slot
        self.sure[pod] = 1.0
        return self._sinks[pod]

    def holds(self, pod: str, keys: Sequence[int], tier: int = GPU) -> None:
        sink, slot = self.hears(pod)
        sink.store(slot, tier, list(keys))

    def frees(self, pod: str, keys: Sequence[int], tier: int = GPU) -> None:
        sink, slot = self.hears(pod)
        sink.discard(slot, tier, list(keys))

    def own(self, pod: str) -> list[set[int]]:
        slot = self._sinks[pod][1]
        return [set(self.index.keys_of(slot, tier)) for tier in TIERS]

    def remembered(self, pod: str) -> list[set[int]]:
        return [set(self.memory.keys_of(pod, tier)) for tier in TIERS]


async def until(condition: Callable[[], bool], seconds: float = 12.0, pause: float = 0.01) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions are of any kind
            await asyncio.sleep(pause)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


@asynccontextmanager
async def replicas(server: RedisServer, scope: str, number: int = 1) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        found = [Replica(server.url, scope) for _ in range(number)]
        for one in found:
            one.store.start()
            stack.push_async_callback(one.store.stop)
        yield found
