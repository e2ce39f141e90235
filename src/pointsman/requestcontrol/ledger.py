"""Ledger: work handed to endpoints and not yet seen to end, counted from the moment of the pick.

Scraped gauges are old by a scrape period and by the engine's step; in a burst they are blind. The ledger is not: every
pick is reserved at once. Prefill work drains by the clock as the latency model expects, and whenever a first token is
really seen, the endpoint's queue is brought in line with it: engines prefill in order of arrival, so that everything
before that request is done and everything behind it still is ahead.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import NamedTuple

from pointsman.api.endpoint import NO_GROWTH, NO_LOAD, EndpointId, Growth, InflightLoad
from pointsman.clock import Clock

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
        self, lane: _Lane, tokens: int, context_tokens: int, prefill_ms: float, *, prefill_only: bool = False
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


class _Lane:
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


class Ledger:
    """In-flight work per endpoint. One owner, one thread; every method is a few additions."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: dict[EndpointId, _Lane] = {}
        self._picks = 0

    def load(self, endpoint: EndpointId) -> InflightLoad:
        """What is in flight at an endpoint as of now; the object is reused, so read it and let go."""
        lane = self._lanes.get(endpoint)
        if lane is None:
            return NO_LOAD
        load = lane.load
        # Only prefill work changes by itself as time goes by. Every decision asks this of every endpoint several
        # times, and most endpoints have none ahead: 0.1 µs instead of 0.5.
        if lane.pending or load.prefill_ms:
            lane.advance(self._clock.now())
        return load

    def since(self, endpoint: EndpointId, moment: float) -> Growth:
        """What has changed at an endpoint since a moment of the clock: what a gauge read then does not show."""
        lane = self._lanes.get(endpoint)
        if lane is None or (lane.last_change <= moment and not lane.passing):
            return NO_GROWTH
        if lane.pending:
            lane.advance(self._clock.now())
        return lane.since(moment)

    def course(self, endpoint: EndpointId) -> Course:
        """What is and was at an endpoint, as of now."""
        now = self._clock.now()
        lane = self._lanes.get(endpoint)
        if lane is None:
            return Course(now, 0, 0, 0.0, 0.0, 0, 0)
        lane.advance(now)
        lane.tally(now)
        return Course(
            now,
            lane.load.requests,
            len(lane.pending),
            lane.request_seconds,
            lane.context_seconds,
            lane.arrived,
            lane.arrived_tokens,
        )

    def reserve(
        self,
        endpoint: EndpointId,
        *,
        uncached_tokens: int,
        context_tokens: int,
        prefill_ms: float,
        prefill_only: bool = False,
    ) -> Reservation:
        """Claim an endpoint for a request that was just sent there, or for its prefill alone."""
        lane = self._lanes.setdefault(endpoint, _Lane())
        reservation = Reservation(lane, uncached_tokens, context_tokens, prefill_ms, prefill_only=prefill_only)
        self._enter(reservation, lane, self._clock.now())
        self._picks += 1
        lane.load.last_picked = self._picks
        return reservation

    def first_token(self, reservation: Reservation) -> None:
        """The request's first token was seen: bring the endpoint's queue in line with it."""
        lane = reservation.lane
        if reservation.released:
            return
        now = self._clock.now()
        lane.advance(now)
        if reservation.prefilled:
            return
        while lane.pending:
            head = lane.pending.popleft()
            lane.done(head, now)
            if head is reservation:
                break
        lane.replay(now)
        lane.advance(now)

    def release(self, reservation: Reservation) -> None:
        """The request ended, whichever way. A second call does nothing."""
        if reservation.released:
            return
        now = self._clock.now()
        lane = reservation.lane
        lane.advance(now)
        if reservation.released:  # a prefill alone, over by now
            return
        lane.departed(reservation, now)
        self._leave(reservation, lane, now)

    def _leave(self, reservation: Reservation, lane: _Lane, now: float) -> None:
        reservation.released = True
        lane.advance(now)
        lane.tally(now)
        if not reservation.prefilled:
            lane.leave(reservation, now)
        lane.load.requests -= 1
        lane.load.context_tokens -= reservation.context_tokens
        lane.advance(now)

    def move(self, reservation: Reservation, endpoint: EndpointId) -> None:
        """The request was served by another endpoint than it was reserved for, so that its work is there.

        What is known of its prefill goes along: work not believed done is queued there as if it had just come.
        """
        if reservation.released:
            return
        lane = self._lanes.setdefault(endpoint, _Lane())
        if lane is reservation.lane:
            return
        prefilled = reservation.prefilled
        now = self._clock.now()
        self._leave(reservation, reservation.lane, now)  # no end: it was never there
        reservation.released, reservation.prefilled = False, prefilled
        self._enter(reservation, lane, now)

    def _enter(self, reservation: Reservation, lane: _Lane, now: float) -> None:
        lane.advance(now)
        lane.tally(now)
        lane.arrived += 1
        lane.arrived_tokens += reservation.tokens
        reservation.lane = lane
        reservation.began = lane.last_change = now
        lane.arrivals.append(reservation)
        load = lane.load
        if not reservation.prefilled:
            lane.busy_until = max(now, lane.busy_until) + reservation.prefill_ms / 1000
            reservation.ends = lane.busy_until
            lane.pending.append(reservation)
            lane.passing += reservation.prefill_only
            load.tokens += reservation.tokens
        load.requests += 1
        load.context_tokens += reservation.context_tokens
        lane.advance(now)

    def forget(self, endpoint: EndpointId) -> None:
        """Drop an endpoint that is gone; releases of its reservations touch nothing that is still asked."""
        self._lanes.pop(endpoint, None)

    def totals(self) -> tuple[int, int]:
        """Requests and prefill tokens in flight over all endpoints."""
        lanes = self._lanes.values()
        return sum(lane.load.requests for lane in lanes), sum(lane.load.tokens for lane in lanes)
