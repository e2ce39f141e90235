"""The KV-cache index: look-up, ingestion and memory, against a plain reference walk and Dynamo's RadixTree.

    python bench/index.py                    # ours (compiled and pure) and the walk, up to 1 M blocks
    python bench/index.py --with-dynamo      # and ai-dynamo-runtime, installed into a throw-away venv (75 MB)
    python bench/index.py --large            # and memory at 10 M blocks

Every index runs in a process of its own, one after the other, so that memory is told apart. A look-up asks for 400
blocks with keys just made; the pods share a prefix of 200 and each chain has its own rest. Rates and percentiles are
the best of three rounds, wall clock.

Ingestion is from bytes to index, in two forms. "hashes": the same facts for all, parent and block hashes: MessagePack
for ours and the walk, JSON for RadixTree, whose binding takes nothing else. "tokens": vLLM's map form with 16 token ids
a block, from which ours chains its own keys and RadixTree gets its token hashes and its JSON made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from array import array
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from random import Random
from time import perf_counter, sleep
from typing import Any, Protocol

import msgspec

KINDS = ("compiled", "pure", "walk", "dynamo")
PODS = (8, 64, 512)
BLOCKS, SHARED, TOKENS = 400, 200, 16
CHAINS_PER_POD = {8: 20, 64: 20, 512: 5}  # as in the runs of RadixTree that we compare with: 64 k, 512 k, 1.02 M blocks


class Index(Protocol):
    """What is measured."""

    def store(self, pod: int, keys: list[int]) -> None: ...
    def encode(self, parent: int | None, keys: list[int]) -> bytes: ...
    def ingest(self, pod: int, payload: bytes) -> None: ...
    def ingest_tokens(self, pod: int, payload: bytes) -> None: ...
    def find(self, keys: list[int]) -> Any: ...


def event(parent: int | None, keys: list[int], *, tokens: bool = False) -> bytes:
    """A batch with one event in vLLM's map form; the tokens are made from the keys."""
    stored = {
        "type": "BlockStored",
        "block_hashes": keys,
        "parent_block_hash": parent,
        "token_ids": [(key >> at) & 0x1FFFF for key in keys for at in range(TOKENS)] if tokens else [],
        "block_size": TOKENS,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    }
    return msgspec.msgpack.encode([1.0, [stored], 0])


class Ours:
    """KVIndex, fed by the decoder of ``kvcache/events.py``."""

    def __init__(self) -> None:
        from pointsman.kvcache.blocks import token_block_keys  # noqa: PLC0415 - not there in RadixTree's venv
        from pointsman.kvcache.events import decode_batch  # noqa: PLC0415
        from pointsman.kvcache.kv_index import KVIndex  # noqa: PLC0415

        self.index, self.decode, self.chain = KVIndex(), decode_batch, token_block_keys
        self.encode = event
        self.find = self.index.match
        self.own: dict[int, int] = {}  # engine hash to own key, for parents

    def store(self, pod: int, keys: list[int]) -> None:
        self.index.store(pod, 0, keys)

    def ingest(self, pod: int, payload: bytes) -> None:
        one: Any
        for one in self.decode(payload).events:
            self.index.store(pod, 0, one.hashes)

    def ingest_tokens(self, pod: int, payload: bytes) -> None:
        one: Any
        for one in self.decode(payload).events:
            keys = self.chain(one.tokens, one.block_size, self.own.get(one.parent, 0))
            self.own.update(zip(one.hashes, keys, strict=True))
            self.index.store(pod, 0, keys)


class Walk:
    """The plain reference: key to a set of pods, looked at block by block."""

    def __init__(self) -> None:
        self.held: dict[int, set[int]] = {}
        self.decode = msgspec.msgpack.decode
        self.encode = event
        self.ingest_tokens = self.ingest  # keyed by the engine's hashes, it needs no tokens

    def store(self, pod: int, keys: list[int]) -> None:
        for key in keys:
            self.held.setdefault(key, set()).add(pod)

    def ingest(self, pod: int, payload: bytes) -> None:
        for one in self.decode(payload)[1]:
            self.store(pod, one["block_hashes"])

    def find(self, keys: list[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        alive = set(self.held.get(keys[0], ()))
        for at, key in enumerate(keys):
            left = alive & self.held.get(key, set())
            for pod in alive - left:
                found[pod] = at
            alive = left
            if not alive:
                return found
        return found | dict.fromkeys(alive, len(keys))


class Dynamo:
    """RadixTree of ai-dynamo-runtime, as its Python binding offers it."""

    def __init__(self) -> None:
        from dynamo.llm import (  # type: ignore[import-not-found]  # noqa: PLC0415
            RadixTree,
            compute_block_hash_for_seq,
        )

        self.tree, self.hash = RadixTree(), compute_block_hash_for_seq
        self.find = self.tree.find_matches
        self.ingest = self.tree.apply_event

    def ingest_tokens(self, pod: int, payload: bytes) -> None:
        for one in msgspec.msgpack.decode(payload)[1]:
            hashes = self.hash(one["token_ids"], one["block_size"])
            pairs = zip(one["block_hashes"], hashes, strict=True)
            stored = {
                "parent_hash": one["parent_block_hash"],
                "blocks": [{"block_hash": block, "tokens_hash": tokens} for block, tokens in pairs],
            }
            self.ingest(pod, msgspec.json.encode({"event_id": 1, "data": {"stored": stored}}))

    def encode(self, parent: int | None, keys: list[int]) -> bytes:
        blocks = [{"block_hash": key, "tokens_hash": key} for key in keys]
        stored = {"parent_hash": parent, "blocks": blocks}
        return json.dumps({"event_id": 1, "data": {"stored": stored}}).encode()

    def store(self, pod: int, keys: list[int]) -> None:
        self.ingest(pod, self.encode(None, keys))


def chains(rng: Random, pods: int) -> list[tuple[int, list[int]]]:
    """Chains of 400 blocks by pod; the first 200 are one of eight prefixes."""
    prefixes = [[rng.getrandbits(64) for _ in range(SHARED)] for _ in range(8)]
    return [
        (pod, prefixes[rng.randrange(8)] + [rng.getrandbits(64) for _ in range(BLOCKS - SHARED)])
        for _ in range(CHAINS_PER_POD[pods])
        for pod in range(pods)
    ]


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    seconds.sort()
    return seconds[len(seconds) // 2] * 1e6, seconds[len(seconds) * 99 // 100] * 1e6


def measure_lookup(index: Index, held: list[tuple[int, list[int]]], rng: Random) -> tuple[float, float]:
    """Of 3 rounds of 2,000 queries, a held chain each, the one with the best p99."""
    rounds = []
    for _ in range(3):
        times = []
        for _ in range(2000):
            keys = array("Q", held[rng.randrange(len(held))][1]).tolist()  # as a request's: made a moment ago
            start = perf_counter()
            index.find(keys)
            times.append(perf_counter() - start)
        rounds.append(percentiles(times))
    return min(rounds, key=itemgetter(1))


def rate(ingest: Callable[[int, bytes], None], payloads: list[bytes]) -> float:
    """Payloads a second, over 64 pods."""
    start = perf_counter()
    for at, payload in enumerate(payloads):
        ingest(at & 63, payload)
    return len(payloads) / (perf_counter() - start)


def measure_ingestion(make: type[Index], rng: Random) -> dict[str, float]:
    """Blocks a second in events of 400, events a second of one block, without and with tokens; best of three."""
    best: dict[str, float] = {}
    for _ in range(3):
        index, chains_ = make(), [[rng.getrandbits(63) for _ in range(BLOCKS)] for _ in range(300)]
        many = rate(index.ingest, [index.encode(None, keys) for keys in chains_])
        singles = [(keys[at - 1] if at else None, keys[at : at + 1]) for at in range(60) for keys in chains_[:256]]
        one = rate(make().ingest, [index.encode(*single) for single in singles])
        many_tokens = rate(make().ingest_tokens, [event(None, keys, tokens=True) for keys in chains_])
        one_tokens = rate(make().ingest_tokens, [event(*single, tokens=True) for single in singles])
        found = {"many": many * BLOCKS, "one": one, "many_tokens": many_tokens * BLOCKS, "one_tokens": one_tokens}
        best = {name: max(value, best.get(name, 0)) for name, value in found.items()}
    return best


def measure_concurrent(index: Index, held: list[tuple[int, list[int]]], rng: Random) -> tuple[float, float, float]:
    """Queries while another thread ingests, p50, p99 and worst; the thread gives way after each batch of 64 blocks."""
    payloads = [(n % 64, index.encode(None, [rng.getrandbits(64) for _ in range(64)])) for n in range(4000)]
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            for pod, payload in payloads:
                index.ingest(pod, payload)
                sleep(0)
                if stop.is_set():
                    return

    thread = threading.Thread(target=feed)
    thread.start()
    times = []
    for _ in range(2000):
        sleep(0.0005)
        keys = held[rng.randrange(len(held))][1]
        start = perf_counter()
        index.find(keys)
        times.append(perf_counter() - start)
    stop.set()
    thread.join()
    return (*percentiles(times), times[-1] * 1e6)


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_memory(make: type[Index], blocks: int, rng: Random) -> float:
    """Bytes per distinct block of one holder each, 64 pods. RadixTree gets chains, as it must."""
    index = make()
    index.store(0, [rng.getrandbits(64) for _ in range(BLOCKS)])
    before = resident()
    for start in range(0, blocks, BLOCKS):
        index.store(start // BLOCKS % 64, [rng.getrandbits(64) for _ in range(BLOCKS)])
    return (resident() - before) / blocks


def maker(kind: str) -> Any:
    """What makes an index of a kind."""
    return {"walk": Walk, "dynamo": Dynamo}.get(kind, Ours)


def measure_sizes(kind: str, *, large: bool) -> dict[str, Any]:
    """Memory, in a process that has had no other index: what is freed would hide what is taken."""
    row = {"1M": measure_memory(maker(kind), 1_000_000, Random(7))}
    if large and kind in {"compiled", "dynamo"}:
        row["10M"] = measure_memory(maker(kind), 10_000_000, Random(8))
    return {"memory": row}


def measure_speed(kind: str) -> dict[str, Any]:
    """Times and rates of one index."""
    make, rng = maker(kind), Random(7)
    row: dict[str, Any] = {"lookup": {}, "ingestion": measure_ingestion(make, rng)}
    for pods in PODS:
        index, held = make(), chains(rng, pods)
        for pod, keys in held:
            index.store(pod, keys)
        row["lookup"][pods] = measure_lookup(index, held, rng)
    if kind in {"compiled", "pure"}:
        row["concurrent"] = measure_concurrent(index, held, rng)
    return row


def dynamo_python(folder: Path) -> str:
    """Interpreter of a new venv with ai-dynamo-runtime."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    packages = ("ai-dynamo-runtime", "msgspec")
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
    return python


def show(rows: dict[str, dict[str, Any]]) -> None:
    """One table."""
    print(f"{'':<26}" + "".join(f"{kind:>16}" for kind in rows))
    lines: list[tuple[str, list[str]]] = [
        (
            f"look-up {pods} pods, p50/p99",
            ["{:.1f}/{:.1f} µs".format(*row["lookup"][str(pods)]) for row in rows.values()],
        )
        for pods in PODS
    ]
    lines += [
        (f"ingest {what}", [f"{row['ingestion'][name] / unit:.{digits}f} {label}" for row in rows.values()])
        for what, name, unit, digits, label in (
            ("400 blocks, hashes", "many", 1e6, 2, "M blk/s"),
            ("400 blocks, tokens", "many_tokens", 1e6, 2, "M blk/s"),
            ("1 block, hashes", "one", 1e3, 0, "k ev/s"),
            ("1 block, tokens", "one_tokens", 1e3, 0, "k ev/s"),
        )
    ]
    lines += [
        (
            "while ingesting, p99",
            [f"{row['concurrent'][1]:.0f} µs" if "concurrent" in row else "" for row in rows.values()],
        ),
        (
            "while ingesting, worst",
            [f"{row['concurrent'][2]:.0f} µs" if "concurrent" in row else "" for row in rows.values()],
        ),
    ]
    lines += [
        (
            f"memory at {size}",
            [f"{row['memory'][size]:.0f} B/block" if size in row["memory"] else "" for row in rows.values()],
        )
        for size in ("1M", "10M")
    ]
    for name, cells in lines:
        print(f"{name:<26}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-dynamo", action="store_true", help="also RadixTree, from PyPI in a throw-away venv")
    parser.add_argument("--dynamo-python", metavar="PATH", help="an interpreter that has it and msgspec already")
    parser.add_argument("--large", action="store_true", help="also memory at 10 M blocks: 1 GB")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        kind = options.only
        print(json.dumps(measure_sizes(kind, large=options.large) if options.memory else measure_speed(kind)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            if kind == "dynamo" and not (options.with_dynamo or options.dynamo_python):
                print("RadixTree left out: --with-dynamo installs it into a throw-away venv")
                continue
            python = sys.executable
            if kind == "dynamo":
                python = options.dynamo_python or dynamo_python(Path(folder) / "venv")
            environment = {**os.environ, "POINTSMAN_PURE": "1" if kind == "pure" else ""}
            command = [python, __file__, "--only", kind]
            row: dict[str, Any] = {}
            for part in ([], ["--memory", *(["--large"] if options.large else [])]):
                done = subprocess.run([*command, *part], env=environment, stdout=subprocess.PIPE, check=False)
                row |= json.loads(done.stdout) if not done.returncode else {}
            if "memory" in row and "lookup" in row:
                rows[kind] = row
            else:
                print(f"{kind} left out: it failed")
    show(rows)


if __name__ == "__main__":
    main()
