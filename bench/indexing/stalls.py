"""Queries while events come: in turns of one event loop, as in the picker and the indexer, and against a thread."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from random import Random
from time import perf_counter, sleep, thread_time
from typing import Any

import msgspec

from indexing.contenders import BLOCKS, chains
from indexing.worker import percentiles
from pointsman.app.memory import settle
from pointsman.clock import SystemClock
from pointsman.kvcache.backlog import Backlog, CatchUp
from pointsman.kvcache.following import Following, read
from pointsman.kvcache.kv_index import KVIndex
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.stream_types import StreamOptions
from pointsman.kvcache.subscriber import SubscriberOptions

PODS, HELD, SLICE = 64, 20_000, SubscriberOptions().slice
LONG = 4096  # blocks of the longest batch: 65,536 tokens in one step
PAUSE = 0.001


class Fleet:
    """64 pods of 20,000 blocks each, and what their engines go on sending."""

    def __init__(self) -> None:
        self.later: Callable[[Backlog], None] = lambda _: None
        self.index, self.rng = KVIndex(), Random(3)
        self.queries = [keys for _, keys in chains(self.rng, 64)][:200]
        self.pods = [
            Following(str(pod), 0, PodView(self.index, pod, ""), StreamOptions(), lambda _: None, self._later)
            for pod in range(PODS)
        ]
        self.numbers = [itertools.count() for _ in range(PODS)]
        self.live: list[list[list[int]]] = [[] for _ in range(PODS)]
        for pod in range(PODS):
            for _ in range(HELD // BLOCKS):
                self.pods[pod].view.apply(self._read([self._stored(pod, BLOCKS)]))
            self.index.store(pod, 0, self.queries[pod])
        self.payloads = self._payloads(400)

    def message(self) -> Following:
        """The next batch of some pod, from bytes to the index, as the subscriber does it."""
        pod, payload = next(self.payloads)
        following = self.pods[pod]
        following.message(next(self.numbers[pod]), read(payload), 0.0, 0.0)
        return following

    def query(self) -> None:
        """One of the chains that some pod holds half of."""
        self.index.match(self.queries[self.rng.randrange(len(self.queries))])

    def _later(self, backlog: Backlog) -> None:
        self.later(backlog)

    def _read(self, events: list[Any]) -> Any:
        batch = read(msgspec.msgpack.encode([1.0, events, 0]))
        assert batch is not None
        return batch

    def _stored(self, pod: int, blocks: int) -> dict[str, Any]:
        hashes = [self.rng.getrandbits(63) for _ in range(blocks)]
        self.live[pod].append(hashes)
        tokens = array("H", self.rng.randbytes(2 * 16 * blocks)).tolist()
        named: dict[str, Any] = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None}
        return named | {"token_ids": tokens, "block_size": 16}

    def _payloads(self, count: int) -> Iterator[tuple[int, bytes]]:
        """Steps with stores of up to 400 blocks and as many removals; some long ones, some caches cleared; for ever."""
        made = []
        for at in range(count):
            pod = self.rng.randrange(PODS)
            size = LONG if at % 200 == 100 else self.rng.choice([1, 1, 1, 16, 64, BLOCKS])
            gone = self.live[pod].pop(0) if self.live[pod] else []
            events: list[Any] = [self._stored(pod, size), {"type": "BlockRemoved", "block_hashes": gone}]
            if at % 40 == 39:
                events = [{"type": "AllBlocksCleared"}, *events]
            made.append((pod, msgspec.msgpack.encode([1.0, events, 0])))
        return itertools.cycle(made)


def _spin(seconds: float) -> None:
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


async def _turns(fleet: Fleet, seconds: float, *, feeding: bool) -> dict[str, Any]:
    """A query each millisecond or so. The control's slices only watch the clock.

    Times of a query by itself and of what the loop does between two turns of the caller, both in seconds of the
    processor, which other processes do not lengthen; and by the clock, from when a query was due to its answer.
    """
    turn = asyncio.Lock()
    catch_up = CatchUp(SystemClock(), SLICE, turn)
    fleet.later = catch_up.add
    found: dict[str, list[float]] = {"own": [], "due": [], "turn": []}

    async def feed() -> None:
        while True:
            await catch_up.wait()
            async with turn:
                end = perf_counter() + SLICE
                while feeding and perf_counter() < end and not catch_up.behind:
                    fleet.message()
                if not feeding:
                    _spin(SLICE)
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(feed()), asyncio.create_task(catch_up.run())]
    due = end = perf_counter()
    while due < end + seconds:
        due = max(due + PAUSE * fleet.rng.uniform(0.5, 1.5), perf_counter())
        while perf_counter() < due:
            before = thread_time()
            await asyncio.sleep(0)  # a loop at work turns for ever; a timer would be 1 ms coarse
            found["turn"].append(thread_time() - before)
        before = thread_time()
        fleet.query()
        found["own"].append(thread_time() - before)
        found["due"].append(perf_counter() - due)
    await catch_up.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {name: percentiles(times) for name, times in found.items()}


def _thread(fleet: Fleet, seconds: float, *, feeding: bool) -> dict[str, Any]:
    """The same against a thread that ingests, or only watches the clock."""
    stop = threading.Event()
    fleet.later = lambda _: None

    def feed() -> None:
        while not stop.is_set():
            if not feeding:
                _spin(SLICE)
            else:
                backlog = fleet.message().backlog
                while backlog.step():
                    sleep(0)
            sleep(0)

    thread = threading.Thread(target=feed)
    thread.start()
    own, end = [], perf_counter() + seconds
    while perf_counter() < end:
        sleep(PAUSE)
        start = perf_counter()
        fleet.query()
        own.append(perf_counter() - start)
    stop.set()
    thread.join()
    return {"clock": percentiles(own)}


def measure(seconds: float) -> dict[str, Any]:
    """Each of the ways, and each with a control that does everything but ingest."""
    fleet = Fleet()
    settle()
    found = {
        "loop": asyncio.run(_turns(fleet, seconds, feeding=True)),
        "loop control": asyncio.run(_turns(fleet, seconds, feeding=False)),
    }
    sys.setswitchinterval(0.0002)
    return found | {
        "thread": _thread(fleet, seconds, feeding=True),
        "thread control": _thread(fleet, seconds, feeding=False),
    }
