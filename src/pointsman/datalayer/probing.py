"""What one reading of an endpoint means: for its health, and for the models it serves. No I/O."""

from __future__ import annotations

from enum import Enum

import msgspec


class Outcome(Enum):
    """How one reading ended."""

    READ = "read"
    UNUSABLE = "unusable"
    """The server answered, but not with metrics: 404, a redirect, garbage, too much."""
    FAILING = "failing"
    """The server answered with a 5xx, or with something that is not HTTP."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    """No connection, or it broke."""


class HealthRule:
    """Turns readings into verdicts.

    A connection that cannot be made means that requests fail too, so two in a row are enough. A slow ``/metrics`` is
    common on a busy engine, so it takes more of them. An answer of the wrong kind says nothing about inference: it
    never makes an endpoint unhealthy, and (unless it shows a failure) it is enough to make one healthy again: an engine
    without metrics must not stay away for ever after a restart.
    """

    def __init__(self, unreachable_limit: int = 2, timeout_limit: int = 5) -> None:
        """Set the limits: failed connections, and failures of either kind, in a row."""
        self._unreachable_limit = unreachable_limit
        self._timeout_limit = timeout_limit
        self._unreachable = self._silent = 0

    def note(self, outcome: Outcome) -> bool | None:
        """Take note of a reading: True when it proves health, False the opposite, None when it proves nothing."""
        if outcome in {Outcome.READ, Outcome.UNUSABLE}:
            self._unreachable = self._silent = 0
            return True
        if outcome is Outcome.FAILING:
            self._unreachable = self._silent = 0
            return None
        self._silent += 1
        self._unreachable = self._unreachable + 1 if outcome is Outcome.UNREACHABLE else 0
        dead = self._unreachable >= self._unreachable_limit or self._silent >= self._timeout_limit
        return False if dead else None

    def suspect(self) -> None:
        """Someone else could not connect: the next failed connection is decisive, hearsay alone is not."""
        self._unreachable = max(self._unreachable, self._unreachable_limit - 1)


class Models(msgspec.Struct, frozen=True):
    """What ``GET /v1/models`` lists."""

    base: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None


class _ModelList(msgspec.Struct):
    data: list[_Model]


_decoder = msgspec.json.Decoder(_ModelList)


def parse_models(body: bytes) -> Models | None:
    """Read a model list; entries with a parent are LoRA adapters. None when it is something else."""
    try:
        entries = _decoder.decode(body).data
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    adapters = frozenset(entry.id for entry in entries if entry.parent)
    return Models(frozenset(entry.id for entry in entries) - adapters, adapters)
