"""One contender in a process of its own: reads commands, one JSON array a line, and answers each with a line."""

from __future__ import annotations

import gc
import json
import os
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Any

from indexing.contenders import BLOCKS, Index, chains, event, maker

QUERIES, EVENTS, SINGLES = 1500, 200, 40


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In microseconds."""
    seconds = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    found = {name: seconds[int(len(seconds) * share)] * 1e6 for name, share in shares.items()}
    return {**found, "max": seconds[-1] * 1e6}


def now() -> tuple[float, float]:
    """By the processor, of all threads, and by the clock."""
    return process_time(), perf_counter()


def since(start: tuple[float, float]) -> float:
    """Seconds, by whichever says less: the clock counts other processes, the processor both sides of a hand-over."""
    processor, clock = now()
    return min(processor - start[0], clock - start[1])


def rate(ingest: Callable[[int, bytes], None], payloads: list[bytes]) -> float:
    """Payloads a second, over 64 pods."""
    start = now()
    for at, payload in enumerate(payloads):
        ingest(at & 63, payload)
    return len(payloads) / since(start)


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Worker:
    """What a contender is asked for."""

    def __init__(self, kind: str) -> None:
        self.kind, self.make = kind, maker(kind)
        self.index: Index = self.make()
        self.held: list[tuple[int, list[int]]] = []
        self.rng = Random(7)

    def build(self, pods: int) -> int:
        """An index of that many pods, for look-ups."""
        self.index, self.held = self.make(), chains(Random(pods), pods)
        for pod, keys in self.held:
            self.index.store(pod, keys)
        gc.collect()
        gc.freeze()
        return len(self.held) * BLOCKS

    def lookup(self) -> dict[str, float]:
        """A round of queries, a held chain each, with keys as a request's: made a moment ago."""
        times = []
        for _ in range(QUERIES):
            keys = array("Q", self.held[self.rng.randrange(len(self.held))][1]).tolist()
            start = now()
            self.index.find(keys)
            times.append(since(start))
        return percentiles(times)

    def ingest(self) -> dict[str, float]:
        """Blocks a second in events of 400, events a second of one block; each into a new index."""
        long = [[self.rng.getrandbits(63) for _ in range(BLOCKS)] for _ in range(EVENTS)]
        short = [(keys[at - 1] if at else None, keys[at : at + 1]) for at in range(SINGLES) for keys in long[:192]]
        encode = self.make().encode
        return {
            "many": rate(self.make().ingest_engine, [event(None, keys) for keys in long]) * BLOCKS,
            "one": rate(self.make().ingest_engine, [event(*each) for each in short]),
            "many_own": rate(self.make().ingest, [encode(None, keys) for keys in long]) * BLOCKS,
            "one_own": rate(self.make().ingest, [encode(*each) for each in short]),
        }

    def memory(self, blocks: int) -> dict[str, float]:
        """Bytes per distinct block of one holder each, 64 pods; RadixTree gets chains, as it must. Ours also all that
        the picker keeps: fed as an engine feeds it, with the view's map of hashes."""
        found = {"index": self._grown(lambda index, pod, keys: index.store(pod, keys), blocks)}
        if self.kind in {"compiled", "pure"}:
            found["index and views"] = self._grown(
                lambda index, pod, keys: index.ingest_engine(pod, event(None, keys)), min(blocks, 1_000_000)
            )
        return found

    def _grown(self, put: Callable[[Index, int, list[int]], None], blocks: int) -> float:
        index = self.make()
        put(index, 0, [self.rng.getrandbits(63) for _ in range(BLOCKS)])
        before = resident()
        for start in range(0, blocks, BLOCKS):
            put(index, start // BLOCKS % 64, [self.rng.getrandbits(63) for _ in range(BLOCKS)])
        return (resident() - before) / blocks

    def stalls(self, seconds: float) -> dict[str, Any]:
        """Queries during ingestion; ours only."""
        from indexing.stalls import measure  # noqa: PLC0415 - needs pointsman

        return measure(seconds)


def serve(kind: str) -> None:
    """Until standard input ends."""
    worker = Worker(kind)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(getattr(worker, name)(*arguments)) + "\n")
        sys.stdout.flush()
