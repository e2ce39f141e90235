"""The pods of an index that stands alone: who has which slot, what each is called, and what is remembered of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

import msgspec

from pointsman.kvcache.events import EventBatch
from pointsman.kvcache.kv_index import KVIndex
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.query import CHAIN_MODEL, MAX_PODS, BadQueryError, Place
from pointsman.kvcache.residency import CPU, DISK, GPU
from pointsman.kvcache.shared_changes import Tap, untapped
from pointsman.kvcache.snapshot import HolderSnapshot, pack, unpack
from pointsman.kvcache.told import Told

MAX_SLOTS = 65_536
PUSHED_CONFIDENCE = 0.9
"""In blocks reported over HTTP: without sequence numbers nobody can tell whether a report was lost."""
WARM_CONFIDENCE = 0.3
"""In blocks remembered from a snapshot: what was evicted since is not known."""
WARM_ENDS = 0.5
"""Confidence in a pod's own stream from which on its snapshot is not needed any more."""
WARM_SECONDS = 600.0
"""For how long a snapshot is believed in at the most."""

StreamConfidence = Callable[[str, int], float]
"""Confidence in the stream of (pod, rank)."""


class _Holder:
    """One data-parallel rank of a pod."""

    __slots__ = ("block_size", "live", "live_until", "models", "pushed", "shared", "slot", "view", "warm", "warm_until")

    def __init__(self) -> None:
        self.models: tuple[str, ...] = ()  # as a topic, a push or a snapshot told
        self.slot = -1
        self.view: PodView | None = None
        self.pushed = False
        self.warm = -1  # slot of what others told; apart from the truth, which starts empty
        self.shared = False  # whether it was other replicas, not a snapshot
        self.live = 0.0  # confidence in what they still tell, until
        self.live_until = self.warm_until = 0.0
        self.block_size = 0  # as the snapshot told


class HolderInfo(msgspec.Struct, frozen=True):
    """A pod's rank, for people."""

    pod: str
    rank: int
    models: list[str]
    block_size: int = 0
    gpu: int = 0
    cpu: int = 0
    disk: int = 0
    warm: int = 0
    """Blocks remembered from a snapshot, until the pod's own stream is good enough."""
    confidence: float = 0.0
    source: str = "none"
    """``stream``, ``push``, ``shared`` (by other replicas), ``snapshot`` or, for a pod not heard of but in the list of
    pods, ``none``."""
    skipped: dict[str, int] = {}
    """What could not be used of its events, by reason."""


class KnownPods:
    """Slots of an index by pod and rank; a :class:`pointsman.kvcache.told.Memory`. All calls from one thread.

    Args:
        index: where blocks go.
        confidence: asked for pods whose stream is followed.
    """

    def __init__(self, index: KVIndex, confidence: StreamConfidence) -> None:
        self.index = index
        self.tap: Tap = untapped
        """Gives the sinks of views; to be set before pods are known."""
        self._confidence = confidence
        self._pods: dict[str, dict[int, _Holder]] = {}
        self._models: dict[str, tuple[str, ...]] = {}
        self._free: list[int] = []
        self._slots = 0

    def names(self) -> list[str]:
        """Every pod of which something is known."""
        return list(dict.fromkeys((*self._models, *self._pods)))

    def describe(self, pod: str, models: Iterable[str]) -> None:
        """Tell that a pod exists, and the names it answers to; goes before what its events say."""
        self._models[pod] = tuple(models)

    def make_view(self, pod: str, rank: int, model: str = "") -> PodView | None:
        """The view that a stream is applied to; None when there is no room for another pod."""
        holder = self._holder(pod, rank)
        if holder is None:
            return None
        if holder.view is not None:
            holder.view.forget()
        holder.pushed = False
        holder.models = (model,) if model else holder.models
        holder.view = PodView(self.tap(pod, rank, holder.slot, self.index), holder.slot, CHAIN_MODEL)
        return holder.view

    def push(self, pod: str, model: str, batch: EventBatch) -> None:
        """Follow events that came over HTTP.

        Raises:
            BadQueryError: if the pod's stream is followed, if it has another model, or if there is no room.
        """
        holder = self._pods.get(pod, {}).get(0)
        if holder is None or holder.view is None:
            if self.make_view(pod, 0, model) is None:
                raise BadQueryError(f"more than {MAX_PODS} pods", "pod")
            holder = self._pods[pod][0]
            holder.pushed = True
        elif not holder.pushed:
            raise BadQueryError("the pod's own event stream is followed already", "pod")
        elif model and model not in holder.models:
            raise BadQueryError(f"the pod has another model: {', '.join(holder.models) or 'none'}", "model")
        assert holder.view is not None
        holder.view.apply(batch)

    def remove(self, pod: str) -> None:
        """Forget a pod and what it holds."""
        self._models.pop(pod, None)
        for holder in self._pods.pop(pod, {}).values():
            self._release(holder.slot)
            self._release(holder.warm)

    def places(self, pod: str) -> list[Place]:
        """Where a pod's blocks are in the index: as reported, and as remembered."""
        found = []
        for rank, holder in self._pods.get(pod, {}).items():
            names = frozenset(self._names_of(pod, holder))
            if holder.view is not None:
                size, sure = holder.view.block_size, self._sure(pod, rank, holder)
                found.append(Place(holder.slot, rank, names, size, sure))
            if holder.warm >= 0:
                found.append(Place(holder.warm, rank, names, holder.block_size, _belief(holder)))
        return found

    def refresh(self, now: float) -> None:
        """Drop what others told once the pod's own stream is good, or it is too old."""
        for pod, holders in list(self._pods.items()):
            for rank, holder in list(holders.items()):
                holder.live = holder.live if now < holder.live_until else 0.0
                if holder.warm >= 0 and (now >= holder.warm_until or self._sure(pod, rank, holder) >= WARM_ENDS):
                    self._release(holder.warm)
                    holder.warm = -1
                if holder.view is None and holder.warm < 0:
                    self._release(holder.slot)
                    del holders[rank]
            if not holders:
                del self._pods[pod]

    def infos(self) -> list[HolderInfo]:
        """Every pod and rank."""
        found = [self._info(pod, rank, one) for pod, holders in self._pods.items() for rank, one in holders.items()]
        return found + [HolderInfo(pod, 0, list(names)) for pod, names in self._models.items() if pod not in self._pods]

    def holders(self) -> Iterator[HolderSnapshot]:
        """What each holds, one by one, so that the caller can do other things between them."""
        for pod, ranks in list(self._pods.items()):
            for rank, holder in list(ranks.items()):
                if self._pods.get(pod, {}).get(rank) is not holder:
                    continue  # removed meanwhile; its slot may be another's
                tiers = [pack(self._keys(holder, tier)) for tier in (GPU, CPU, DISK)]
                size = (holder.view.block_size if holder.view else 0) or holder.block_size
                yield HolderSnapshot(pod, rank, list(self._names_of(pod, holder)), size, tiers)

    def restore(self, holders: Iterable[HolderSnapshot], now: float) -> int:
        """Believe, a little, in what a snapshot told; returns how many blocks that were."""
        blocks = 0
        for told in holders:
            holder = self._holder(told.pod, told.rank) if any(told.tiers) else None
            if holder is None or holder.warm >= 0:
                continue
            slot = self._take()
            if slot < 0:
                break
            holder.models = holder.models or tuple(told.models)
            holder.warm, holder.warm_until, holder.block_size = slot, now + WARM_SECONDS, told.block_size
            for tier, packed in zip((GPU, CPU, DISK), told.tiers, strict=True):
                blocks += self.index.store(slot, tier, unpack(packed))
        return blocks

    # -- what other replicas tell ---------------------------------------------------------------------------------

    def wants(self, pod: str, rank: int) -> bool:
        """Whether it is of use: the pod is not heard well."""
        holder = self._pods.get(pod, {}).get(rank)
        return holder is None or self._sure(pod, rank, holder) < WARM_ENDS

    def open(self, told: Told, until: float) -> int:
        """An empty slot for it, in place of an older memory; -1: no room."""
        holder = self._holder(told.pod, told.rank)
        if holder is None:
            return -1
        if holder.warm >= 0:
            self.index.clear(holder.warm)
        else:
            holder.warm = self._take()
        holder.models = holder.models or told.models
        holder.shared, holder.live, holder.warm_until, holder.block_size = True, 0.0, until, told.block_size
        return holder.warm

    def slot_of(self, pod: str, rank: int) -> int:
        """Where it is; -1 for nowhere."""
        holder = self._pods.get(pod, {}).get(rank)
        return holder.warm if holder is not None else -1

    def trust(self, pod: str, rank: int, confidence: float, until: float) -> None:
        """Believe that much in it until then, and at least as long as in a snapshot after that."""
        holder = self._pods.get(pod, {}).get(rank)
        if holder is not None and holder.warm >= 0:
            holder.live, holder.live_until = confidence, until
            holder.warm_until = max(holder.warm_until, until + WARM_SECONDS)

    def drop(self, pod: str, rank: int) -> None:
        """The pod is gone, they say."""
        holder = self._pods.get(pod, {}).get(rank)
        if holder is not None:
            self._release(holder.warm)
            holder.warm = -1

    def facts(self, pod: str, rank: int) -> tuple[float, int, tuple[str, ...]]:
        """Confidence, block size and names of a pod that is heard."""
        holder = self._pods.get(pod, {}).get(rank)
        if holder is None or holder.view is None:
            return 0.0, 0, ()
        return self._sure(pod, rank, holder), holder.view.block_size, self._names_of(pod, holder)

    def _names_of(self, pod: str, holder: _Holder) -> tuple[str, ...]:
        return self._models.get(pod) or holder.models

    def _keys(self, holder: _Holder, tier: int) -> list[int]:
        slots = [slot for slot in (holder.slot, holder.warm) if slot >= 0]
        if len(slots) == 1:
            return self.index.keys_of(slots[0], tier)
        return list(dict.fromkeys(key for slot in slots for key in self.index.keys_of(slot, tier)))

    def _sure(self, pod: str, rank: int, holder: _Holder) -> float:
        if holder.view is None:
            return 0.0
        return PUSHED_CONFIDENCE if holder.pushed else self._confidence(pod, rank)

    def _info(self, pod: str, rank: int, holder: _Holder) -> HolderInfo:
        view = holder.view
        gpu, cpu, disk = self.index.tier_blocks(holder.slot)
        told = "shared" if holder.shared else "snapshot"
        return HolderInfo(
            pod=pod,
            rank=rank,
            models=list(self._names_of(pod, holder)),
            block_size=(view.block_size if view else 0) or holder.block_size,
            gpu=gpu,
            cpu=cpu,
            disk=disk,
            warm=self.index.memory_blocks(holder.warm) if holder.warm >= 0 else 0,
            confidence=max(self._sure(pod, rank, holder), _belief(holder) if holder.warm >= 0 else 0.0),
            source=told if view is None else "push" if holder.pushed else "stream",
            skipped=dict(view.counts) if view else {},
        )

    def _holder(self, pod: str, rank: int) -> _Holder | None:
        ranks = self._pods.get(pod)
        if ranks is None and len(self._pods) >= MAX_PODS:
            return None
        holder = (ranks or {}).get(rank)
        if holder is None:
            slot = self._take()
            if slot < 0:
                return None
            holder = self._pods.setdefault(pod, {})[rank] = _Holder()
            holder.slot = slot
        return holder

    def _take(self) -> int:
        """A slot nobody has; the lowest, as answers of the index are as long as the highest slot in use. -1: none."""
        if self._free:
            return heapq.heappop(self._free)
        if self._slots == MAX_SLOTS:
            return -1
        self._slots += 1
        return self._slots - 1

    def _release(self, slot: int) -> None:
        if slot >= 0:
            self.index.clear(slot)
            heapq.heappush(self._free, slot)


def _belief(holder: _Holder) -> float:
    return max(WARM_CONFIDENCE, holder.live)
