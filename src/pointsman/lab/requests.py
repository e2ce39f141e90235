"""What is asked of a simulated fleet, and in which order."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec


class LabRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        id: unique within a run.
        arrival: when the client sends it, seconds from the start of the run.
        tokens: the prompt, unsigned 32-bit token ids; at least one.
        max_tokens: output tokens; the simulated engine generates exactly so many.
        adapter: LoRA adapter asked for, None for the base model.
        session: conversation it belongs to, ``""`` for none.
        salt: cache salt.
        headers: lower-case names; for objectives, targets and sessions.
        priority: of the request.
        warm_up: not counted in results.
    """

    id: str
    arrival: float
    tokens: array[int]
    max_tokens: int
    adapter: str | None = None
    session: str = ""
    salt: str = ""
    headers: dict[str, str] = {}
    priority: int = 0
    warm_up: bool = False


class Workload(Protocol):
    """Requests in order of arrival, made as they are asked for, and those that wait for an answer."""

    name: str

    def requests(self) -> Iterator[LabRequest]:
        """Those that come by themselves, sorted by arrival. Each call begins anew and gives the same."""

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        """What the client of ``done`` sends next, now that it has its answer; it arrives at ``now`` or later."""


class FixedWorkload:
    """Requests whose times do not depend on answers.

    Args:
        name: for tables.
        requests: sorted by arrival; iterated anew by each run.
    """

    def __init__(self, name: str, requests: Iterable[LabRequest]) -> None:
        self.name = name
        self._requests = requests

    def requests(self) -> Iterator[LabRequest]:
        """All of them."""
        return iter(self._requests)

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        """Nothing."""
        del done, now
        return None
