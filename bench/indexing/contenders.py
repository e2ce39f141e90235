"""What is compared, and the events it is given."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import msgspec

PODS = (8, 64, 512)
BLOCKS, SHARED, TOKENS = 400, 200, 16
CHAINS_PER_POD = {8: 20, 64: 20, 512: 5}  # 64 k, 512 k, 1.02 M blocks


class Index(Protocol):
    """What is measured. Payloads are bytes; decoding them is part of the work."""

    def store(self, pod: int, keys: list[int]) -> None: ...
    def encode(self, parent: int | None, keys: list[int]) -> bytes: ...
    def ingest(self, pod: int, payload: bytes) -> None: ...
    def ingest_engine(self, pod: int, payload: bytes) -> None: ...
    def find(self, keys: list[int]) -> Any: ...


def event(parent: int | None, keys: list[int], *, tokens: bool = True) -> bytes:
    """A batch with one event in vLLM's map form; the token ids are made from the keys."""
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
    """KVIndex. Engine events go the picker's way: decode_batch, then one PodView per pod, which counts copies too."""

    def __init__(self) -> None:
        from pointsman.kvcache.events import decode_batch  # noqa: PLC0415 - not there in RadixTree's venv
        from pointsman.kvcache.kv_index import KVIndex  # noqa: PLC0415
        from pointsman.kvcache.pod_view import PodView  # noqa: PLC0415

        self.index, self.decode = KVIndex(), decode_batch
        self.views = [PodView(self.index, pod, "") for pod in range(max(PODS))]
        self.find = self.index.match

    def store(self, pod: int, keys: list[int]) -> None:
        self.index.store(pod, 0, keys)

    def encode(self, parent: int | None, keys: list[int]) -> bytes:
        return event(parent, keys, tokens=False)

    def ingest(self, pod: int, payload: bytes) -> None:
        one: Any
        for one in self.decode(payload).events:
            self.index.store(pod, 0, one.hashes)

    def ingest_engine(self, pod: int, payload: bytes) -> None:
        self.views[pod].apply(self.decode(payload))


class Walk:
    """The plain reference: key to a set of pods, looked at block by block. It keys by engine hashes, without tokens."""

    def __init__(self) -> None:
        self.held: dict[int, set[int]] = {}
        self.ingest_engine = self.ingest

    def store(self, pod: int, keys: list[int]) -> None:
        for key in keys:
            self.held.setdefault(key, set()).add(pod)

    def encode(self, parent: int | None, keys: list[int]) -> bytes:
        return event(parent, keys, tokens=False)

    def ingest(self, pod: int, payload: bytes) -> None:
        for one in msgspec.msgpack.decode(payload)[1]:
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
    """RadixTree of ai-dynamo-runtime, as its Python binding offers it: JSON bytes in, counts by worker out."""

    def __init__(self) -> None:
        from dynamo.llm import (  # type: ignore[import-not-found]  # noqa: PLC0415
            RadixTree,
            compute_block_hash_for_seq,
        )

        self.tree, self.hash = RadixTree(), compute_block_hash_for_seq
        self.find = self.tree.find_matches
        self.ingest = self.tree.apply_event

    def ingest_engine(self, pod: int, payload: bytes) -> None:
        """From vLLM's bytes: token hashes by its own function, JSON by the fastest encoder there is."""
        for one in msgspec.msgpack.decode(payload)[1]:
            hashes = self.hash(one["token_ids"], one["block_size"])
            pairs = zip(one["block_hashes"], hashes, strict=True)
            blocks = [{"block_hash": block, "tokens_hash": tokens} for block, tokens in pairs]
            stored = {"parent_hash": one["parent_block_hash"], "blocks": blocks}
            self.ingest(pod, msgspec.json.encode({"event_id": 1, "data": {"stored": stored}}))

    def encode(self, parent: int | None, keys: list[int]) -> bytes:
        blocks = [{"block_hash": key, "tokens_hash": key} for key in keys]
        return msgspec.json.encode({"event_id": 1, "data": {"stored": {"parent_hash": parent, "blocks": blocks}}})

    def store(self, pod: int, keys: list[int]) -> None:
        self.ingest(pod, self.encode(None, keys))


def maker(kind: str) -> Callable[[], Index]:
    """What makes an index of a kind."""
    makers: dict[str, Callable[[], Index]] = {"walk": Walk, "radixtree": Dynamo}
    return makers.get(kind, Ours)


def chains(rng: Random, pods: int) -> list[tuple[int, list[int]]]:
    """Chains of 400 blocks by pod; the first 200 are one of eight prefixes."""
    prefixes = [[rng.getrandbits(64) for _ in range(SHARED)] for _ in range(8)]
    return [
        (pod, prefixes[rng.randrange(8)] + [rng.getrandbits(64) for _ in range(BLOCKS - SHARED)])
        for _ in range(CHAINS_PER_POD[pods])
        for pod in range(pods)
    ]
