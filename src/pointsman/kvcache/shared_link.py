"""What the shared index needs of a connection, so that only one module knows Redis' client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pointsman.errors import PointsmanError

Value = str | bytes | int | float
Note = Callable[[str, Mapping[str, Any]], None]
"""Told what is worth a line in the log: an event and its details."""


class LinkDownError(PointsmanError):
    """No connection; nothing that was asked for can be counted on to have happened."""

    reason = "redis-down"


class Refused(msgspec.Struct, frozen=True):
    """An answer that is an error."""

    why: str


class Call(msgspec.Struct, frozen=True):
    """One script with what it works on."""

    script: str
    keys: Sequence[str]
    args: Sequence[Value]


Entry = tuple[bytes, Mapping[bytes, bytes]]
"""An entry of the log: its id and fields."""


class Link(Protocol):
    """A connection. Every method may raise :class:`LinkDownError`."""

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Scripts in one pipeline; each answer as it came, or :class:`Refused`."""

    async def meta(self, keys: Sequence[str], fields: Sequence[str]) -> list[Any]:
        """Fields of several hashes: a list of values each, or :class:`Refused`."""

    async def holders(self, key: str) -> list[bytes]:
        """Members of a sorted set; none when it is something else."""

    async def newest(self, log: str) -> bytes:
        """Id of the newest entry of a stream."""

    async def follow(self, log: str, after: bytes, wait: float) -> list[Entry]:
        """Entries after an id; waits for the first one for up to ``wait`` seconds."""
