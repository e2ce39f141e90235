"""What is in flight at one endpoint, and how it drains; see :mod:`pointsman.requestcontrol.ledger`."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import NamedTuple

from pointsman.api.endpoint import Growth, InflightLoad

REMEMBERED = 1024
"""Arrivals and ends per endpoint that :meth:`Ledger.since` can look back on; readings are younger than that."""


class Course(NamedTuple):
    """What is and was at an endpoint; the difference of two tells what happened in between."""

    at: float
    """Seconds of the clock."""
    requests: int
    """In flight now."""
    waiting: int
    """Of these, prefills not known or believed to have ended."""
    request_seconds: float
    """Requests in flight, added up over time."""
    context_seconds: float
    """Prompt tokens of all requests in flight, added up over time."""
    arrived: int
    """Requests that ever came here."""
    arrived_tokens: int
    """Their uncached prompt tokens."""


class Reservation:
    """One request's claim on an endpoint."""

    __slots__ = (
        "began",
        "context_tokens",
        "ends",
        "lane",
        "prefill_ms",
        "prefill_only",
        "prefilled",
        "released",
        "tokens",
    )

    def __init__(
        self, lane: Lane, tokens: int, context_tokens: int, prefill_ms: float, *, prefill_only: bool = False
    ) -> None:
        self.lane = lane
        """The claim outlives its endpoint: one that comes back under the same name starts with a new lane."""
        self.tokens = tokens
        self.context_tokens = context_tokens
        self.prefill_ms = prefill_ms
        self.prefill_only = prefill_only
        """Another endpoint decodes: this one is rid of it once its prefill is known or believed to have ended."""
        self.began = 0.0
        """When it came to its lane, seconds of the clock."""
        self.ends = 0.0
        """When its prefill is expected to end, seconds of the clock."""
        self.prefilled = False
        self.released = False


class Lane:
    """What is in flight at one endpoint."""

    __slots__ = (
        "arrivals",
        "arrived",
        "arrived_tokens",
        "busy_until",
        "context_seconds",
        "departures",
        "last_change",
        "load",
        "passing",
        "pending",
        "request_seconds",
        "tallied",
    )

    def __init__(self) -> None:
        self.load = InflightLoad()
        self.pending: deque[Reservation] = deque()
        """Reservations whose prefill is not known or believed to have ended, in order of arrival."""
        self.passing = 0
        """How many of them will be gone with their prefill."""
        self.busy_until = 0.0
        self.arrivals: deque[Reservation] = deque(maxlen=REMEMBERED)
        self.departures: deque[tuple[float, float, int]] = deque(maxlen=REMEMBERED)
        """When each request ended, when it had come, and its uncached tokens."""
        self.last_change = -math.inf
        """When a request last came or ended: most readings are younger, and then there is nothing to add up."""
        self.arrived = self.arrived_tokens = 0
        self.request_seconds = self.context_seconds = self.tallied = 0.0

    def tally(self, now: float) -> None:
        """Add up what was in flight until now; to be called before that changes."""
        passed = now - self.tallied
        self.request_seconds += self.load.requests * passed
        self.context_seconds += self.load.context_tokens * passed
        self.tallied = now

    def since(self, moment: float) -> Growth:
        """What came after a moment, and what left of that which was there."""
        pending = decoding = tokens = ended = ended_tokens = 0
        for reservation in reversed(self.arrivals):
            if reservation.began <= moment:
                break
            if reservation.released or reservation.lane is not self:
                continue
            tokens += reservation.tokens
            if reservation.prefilled:
                decoding += 1
            else:
                pending += 1
        for at, began, freed in reversed(self.departures):
            if at <= moment:
                break
            if began <= moment:
                ended += 1
                ended_tokens += freed
        return Growth(pending, decoding, tokens, ended, ended_tokens)

    def advance(self, now: float) -> None:
        """Let time pass: prefills expected to have ended by now are over."""
        while self.pending and self.pending[0].ends <= now:
            self.done(self.pending.popleft(), now)
        self.load.prefill_ms = max(0.0, self.busy_until - now) * 1000
        self.load.decoding = self.load.requests - len(self.pending)

    def prefilled(self, reservation: Reservation) -> None:
        reservation.prefilled = True
        self.passing -= reservation.prefill_only
        self.load.tokens -= reservation.tokens

    def done(self, reservation: Reservation, now: float) -> None:
        """Its prefill has run to the end."""
        self.prefilled(reservation)
        if reservation.prefill_only:
            at = min(now, reservation.ends)
            self.tally(at)
            reservation.released = True
            self.load.requests -= 1
            self.load.context_tokens -= reservation.context_tokens
            self.departed(reservation, at)

    def departed(self, reservation: Reservation, at: float) -> None:
        self.departures.append((at, reservation.began, reservation.tokens))
        self.last_change = max(self.last_change, at)

    def leave(self, gone: Reservation, now: float) -> None:
        """Take out a prefill that will not go on: those behind it are served sooner by what was left of it."""
        left = min(gone.prefill_ms / 1000, gone.ends - now)
        place = self.pending.index(gone)
        del self.pending[place]
        self.prefilled(gone)
        for reservation in islice(self.pending, place, None):
            reservation.ends -= left
        self.busy_until = self.pending[-1].ends if self.pending else now

    def replay(self, now: float) -> None:
        """Lay the pending prefills end to end from now on."""
        at = now
        for reservation in self.pending:
            at += reservation.prefill_ms / 1000
            reservation.ends = at
        self.busy_until = at
