"""Ledger: work handed to endpoints and not yet seen to end, counted from the moment of the pick.

Scraped gauges are old by a scrape period and by the engine's step; in a burst they are blind. The ledger is not: every
pick is reserved at once. Prefill work drains by the clock as the latency model expects, and whenever a first token is
really seen, the endpoint's queue is brought in line with it: engines prefill in order of arrival, so that everything
before that request is done and everything behind it still is ahead.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from pointsman.api.endpoint import NO_LOAD, EndpointId, InflightLoad
from pointsman.clock import Clock


class Reservation:
    """One request's claim on an endpoint."""

    __slots__ = ("context_tokens", "ends", "lane", "prefill_ms", "prefilled", "released", "tokens")

    def __init__(self, lane: _Lane, tokens: int, context_tokens: int, prefill_ms: float) -> None:
        self.lane = lane
        """The claim outlives its endpoint: one that comes back under the same name starts with a new lane."""
        self.tokens = tokens
        self.context_tokens = context_tokens
        self.prefill_ms = prefill_ms
        self.ends = 0.0
        """When its prefill is expected to end, seconds of the clock."""
        self.prefilled = False
        self.released = False


class _Lane:
    """What is in flight at one endpoint."""

    __slots__ = ("busy_until", "load", "pending")

    def __init__(self) -> None:
        self.load = InflightLoad()
        self.pending: deque[Reservation] = deque()
        """Reservations whose prefill is not known or believed to have ended, in order of arrival."""
        self.busy_until = 0.0

    def advance(self, now: float) -> None:
        """Let time pass: prefills expected to have ended by now are over."""
        while self.pending and self.pending[0].ends <= now:
            self.prefilled(self.pending.popleft())
        self.load.prefill_ms = max(0.0, self.busy_until - now) * 1000
        self.load.decoding = self.load.requests - len(self.pending)

    def prefilled(self, reservation: Reservation) -> None:
        reservation.prefilled = True
        self.load.tokens -= reservation.tokens

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

    def reserve(
        self, endpoint: EndpointId, *, uncached_tokens: int, context_tokens: int, prefill_ms: float
    ) -> Reservation:
        """Claim an endpoint for a request that was just sent there."""
        lane = self._lanes.setdefault(endpoint, _Lane())
        reservation = Reservation(lane, uncached_tokens, context_tokens, prefill_ms)
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
            lane.prefilled(head)
            if head is reservation:
                break
        lane.replay(now)
        lane.advance(now)

    def release(self, reservation: Reservation) -> None:
        """The request ended, whichever way. A second call does nothing."""
        if reservation.released:
            return
        reservation.released = True
        lane = reservation.lane
        now = self._clock.now()
        lane.advance(now)
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
        self.release(reservation)
        reservation.released, reservation.prefilled = False, prefilled
        self._enter(reservation, lane, self._clock.now())

    def _enter(self, reservation: Reservation, lane: _Lane, now: float) -> None:
        lane.advance(now)
        reservation.lane = lane
        load = lane.load
        if not reservation.prefilled:
            lane.busy_until = max(now, lane.busy_until) + reservation.prefill_ms / 1000
            reservation.ends = lane.busy_until
            lane.pending.append(reservation)
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
