"""What the picker remembers of endpoints it does not hear (yet): from a snapshot file, or from other replicas.

It has an index of its own, so that it never mixes with what the endpoints' own events say.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.clock import Clock
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.known_pods import MAX_SLOTS, WARM_CONFIDENCE, WARM_ENDS, WARM_SECONDS
from pointsman.kvcache.kv_index import KVIndex
from pointsman.kvcache.residency import CPU, DISK, GPU
from pointsman.kvcache.snapshot import HolderSnapshot, unpack
from pointsman.kvcache.told import Told


class _Memory:
    __slots__ = ("block_size", "live", "live_until", "slot", "until")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.block_size = 0
        self.live = self.live_until = self.until = 0.0


class Held(msgspec.Struct, frozen=True):
    """What is remembered of one endpoint about a prompt."""

    endpoint: Endpoint
    tokens: int
    confidence: float


class Remembered:
    """A :class:`pointsman.kvcache.told.Memory` of endpoints. All calls from one thread.

    Args:
        clock: time.
        sure: confidence in an endpoint's own stream, None for an endpoint there is not.
    """

    def __init__(self, clock: Clock, sure: Callable[[str], float | None]) -> None:
        self.index = KVIndex()
        self._clock, self._sure = clock, sure
        self._pods: dict[str, _Memory] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._pods)

    def wants(self, pod: str, rank: int) -> bool:
        """Whether the endpoint is there and not heard well. Of ranks nobody knows which will serve a request."""
        sure = self._sure(pod)
        return not rank and sure is not None and sure < WARM_ENDS

    def open(self, told: Told, until: float) -> int:
        """An empty slot for an endpoint, in place of an older memory; -1: no room."""
        return self._open(told.pod, told.block_size, until)

    def slot_of(self, pod: str, rank: int) -> int:
        memory = None if rank else self._pods.get(pod)
        return memory.slot if memory is not None else -1

    def trust(self, pod: str, rank: int, confidence: float, until: float) -> None:
        """Believe that much in what is followed until then; after that as in any memory."""
        memory = None if rank else self._pods.get(pod)
        if memory is not None:
            memory.live, memory.live_until = confidence, until
            memory.until = max(memory.until, until + WARM_SECONDS)

    def drop(self, pod: str, rank: int = 0) -> None:
        """Forget an endpoint."""
        memory = None if rank else self._pods.pop(pod, None)
        if memory is not None:
            self.index.clear(memory.slot)
            heapq.heappush(self._free, memory.slot)

    def refresh(self) -> None:
        """Drop what is heard well by now, or too old."""
        now = self._clock.now()
        for pod, memory in list(self._pods.items()):
            if now >= memory.until or (self._sure(pod) or 0.0) >= WARM_ENDS:
                self.drop(pod)

    def restore(self, holders: Iterable[HolderSnapshot], now: float) -> Iterator[int]:
        """Remember what a snapshot told; gives the blocks of one holder after the other."""
        for told in holders:
            if told.rank or not any(told.tiers) or told.pod in self._pods:
                continue
            slot = self._open(told.pod, told.block_size, now + WARM_SECONDS)
            if slot < 0:
                return
            yield sum(
                self.index.store(slot, tier, unpack(packed))
                for tier, packed in zip((GPU, CPU, DISK), told.tiers, strict=True)
            )

    def confidence(self, pod: str) -> float:
        """In what is remembered, 0 for nothing."""
        memory = self._pods.get(pod)
        if memory is None:
            return 0.0
        return max(WARM_CONFIDENCE, memory.live if self._clock.now() < memory.live_until else 0.0)

    def describe(self, pod: str) -> dict[str, float] | None:
        """For the admin page; None when nothing is remembered."""
        memory = self._pods.get(pod)
        if memory is None:
            return None
        return {"blocks": self.index.memory_blocks(memory.slot), "confidence": round(self.confidence(pod), 4)}

    def block_size(self, pod: str) -> int:
        """Tokens per block, 0 when not known."""
        memory = self._pods.get(pod)
        return memory.block_size if memory is not None else 0

    def keys_of(self, pod: str, tier: int) -> list[int]:
        """For snapshots."""
        memory = self._pods.get(pod)
        return self.index.keys_of(memory.slot, tier) if memory is not None else []

    def match(
        self, ids: Sequence[int], root: int, endpoints: Sequence[Endpoint], keys: MutableMapping[int, Sequence[int]]
    ) -> Iterator[Held]:
        """What is remembered about a prompt.

        Args:
            ids: token ids of the prompt.
            root: what its chain starts from.
            endpoints: to look for.
            keys: chains by block size; those that are missing are made.
        """
        found: dict[int, Mapping[int, int]] = {}
        for endpoint in endpoints:
            memory = self._pods.get(endpoint.id)
            size = memory.block_size if memory is not None else 0
            if memory is None or not size or (self._sure(endpoint.id) or 0.0) >= WARM_ENDS:
                continue
            if size not in found:
                own = keys[size] = keys.get(size) or token_block_keys(ids, size, root)
                blocks = self.index.match(own[: (len(ids) - 1) // size]).blocks()
                found[size] = dict(enumerate(blocks))
            held = found[size].get(memory.slot, 0) * size
            yield Held(endpoint, held, self.confidence(endpoint.id))

    def _open(self, pod: str, block_size: int, until: float) -> int:
        memory = self._pods.get(pod)
        if memory is None:
            if len(self._pods) == MAX_SLOTS:
                return -1
            # The lowest free one, as answers of the index are as long as the highest slot in use.
            slot = heapq.heappop(self._free) if self._free else len(self._pods)
            memory = self._pods[pod] = _Memory(slot)
        else:
            self.index.clear(memory.slot)
        memory.block_size, memory.until, memory.live = block_size, until, 0.0
        return memory.slot
