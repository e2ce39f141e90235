"""What others tell of pods: how it is described, and what takes it in."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pointsman.kvcache.kv_index import KVIndex


class Told(msgspec.Struct, frozen=True):
    """A holder as the store describes it."""

    pod: str
    rank: int
    version: int
    whole: bool
    block_size: int
    models: tuple[str, ...]
    confidence: float
    wall: float


class Memory(Protocol):
    """Where blocks of pods go that are not heard: apart from what is heard, and believed less."""

    @property
    def index(self) -> KVIndex:
        """Where blocks are stored, by the slots that :meth:`open` gives."""

    def wants(self, pod: str, rank: int) -> bool:
        """Whether what others tell of a pod is of use: it is known, and not heard well."""

    def open(self, told: Told, until: float) -> int:
        """An empty slot for a pod, to be believed in until then at most (clock seconds); -1 when there is none."""

    def slot_of(self, pod: str, rank: int) -> int:
        """The slot that was opened; -1 when the memory has dropped it by itself."""

    def trust(self, pod: str, rank: int, confidence: float, until: float) -> None:
        """Believe that much in it until then; after that as much as in any memory."""

    def drop(self, pod: str, rank: int) -> None:
        """Forget it."""
