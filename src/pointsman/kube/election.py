"""Leader election by a Lease, as a pure state machine. client-go's rules, so that both may take part in one election.

Clocks of different machines are never compared: a lease has run out when it was not seen to change for as long as it
says it lasts, by one's own clock. A leader that could not renew gives up a good while before that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec


class LeaseTiming(msgspec.Struct, frozen=True, kw_only=True):
    """client-go's defaults, in seconds."""

    duration: float = 15.0
    """How long others wait for a leader that is silent."""
    renew: float = 10.0
    """How long a leader that cannot renew goes on; less than ``duration``."""
    retry: float = 2.0
    """Between two looks."""


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Of a Lease's spec, what matters."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Election:
    """One candidate's view. Times are seconds of its own clock."""

    def __init__(self, identity: str, timing: LeaseTiming) -> None:
        self.identity, self.timing = identity, timing
        self._seen: LeaseSpec | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None

    @property
    def holder(self) -> str:
        """Who holds the lease, as last seen; empty for nobody."""
        return (self._seen.holder_identity if self._seen is not None else None) or ""

    @property
    def held(self) -> bool:
        """Whether the lease was this candidate's when last seen."""
        return self.holder == self.identity

    def leading(self, now: float) -> bool:
        """Whether this candidate may act as the leader."""
        return self._renewed_at is not None and now < self._renewed_at + self.timing.renew

    def observe(self, spec: LeaseSpec | None, now: float) -> None:
        """The lease as it is, None when there is none."""
        if spec != self._seen or spec is None:
            self._seen, self._seen_at = spec, now
        if not self.held:
            self._renewed_at = None

    def proposal(self, now: float, wall: float) -> LeaseSpec | None:
        """What to write now: a renewal, or a claim to a lease that is free; None while somebody else holds it."""
        seen, moment = self._seen, _micro_time(wall)
        seconds = max(1, round(self.timing.duration))
        if seen is None:
            return LeaseSpec(self.identity, seconds, moment, moment, 0)
        if self.held:
            return LeaseSpec(self.identity, seconds, seen.acquire_time or moment, moment, seen.lease_transitions or 0)
        if self.holder and now < self._seen_at + (seen.lease_duration_seconds or seconds):
            return None
        return LeaseSpec(self.identity, seconds, moment, moment, (seen.lease_transitions or 0) + 1)

    def written(self, spec: LeaseSpec, asked_at: float) -> None:
        """The proposal was taken.

        Args:
            spec: the proposal.
            asked_at: when it was sent: the server may have taken it as early as that.
        """
        self._seen, self._seen_at = spec, asked_at
        self._renewed_at = asked_at

    def release(self, now: float, wall: float) -> LeaseSpec | None:
        """What to write in order to go: the next one need not wait. None when there is nothing to give up."""
        self._renewed_at = None
        if not self.held or self._seen is None:
            return None
        moment = _micro_time(wall)
        return LeaseSpec("", 1, moment, moment, self._seen.lease_transitions or 0)


def with_spec(lease: dict[str, Any], spec: LeaseSpec) -> dict[str, Any]:
    """A Lease with another spec; whatever else it holds, versions and labels, stays."""
    return {**lease, "spec": {**(lease.get("spec") or {}), **msgspec.to_builtins(spec)}}


def _micro_time(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
