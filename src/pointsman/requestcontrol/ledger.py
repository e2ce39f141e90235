"""Ledger: work handed to endpoints and not yet seen to end, counted from the moment of the pick.

Scraped gauges are old by a scrape period and by the engine's step; in a burst they are blind. The ledger is not: every
pick is reserved at once. Prefill work drains by the clock as the latency model expects, and whenever a first token is
really seen, the endpoint's queue is brought in line with it: engines prefill in order of arrival, so that everything
before that request is done and everything behind it still is ahead.
"""

from __future__ import annotations

from pointsman.api.endpoint import NO_GROWTH, NO_LOAD, EndpointId, Growth, InflightLoad
from pointsman.clock import Clock
from pointsman.requestcontrol.lane import Course, Lane, Reservation

__all__ = ["Course", "Ledger", "Reservation"]


class Ledger:
    """In-flight work per endpoint. One owner, one thread; every method is a few additions."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: dict[EndpointId, Lane] = {}
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
        lane = self._lanes.setdefault(endpoint, Lane())
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

    def _leave(self, reservation: Reservation, lane: Lane, now: float) -> None:
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
        lane = self._lanes.setdefault(endpoint, Lane())
        if lane is reservation.lane:
            return
        prefilled = reservation.prefilled
        now = self._clock.now()
        self._leave(reservation, reservation.lane, now)  # no end: it was never there
        reservation.released, reservation.prefilled = False, prefilled
        self._enter(reservation, lane, now)

    def _enter(self, reservation: Reservation, lane: Lane, now: float) -> None:
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
