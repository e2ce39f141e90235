"""LiveExchange: one routed request until its end; the reservation is released exactly once."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from pointsman.api.endpoint import Endpoint
from pointsman.api.result import EndCause, RequestOutcome, RoutingDecision
from pointsman.clock import Clock
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.watchdog import report
from pointsman.requestcontrol.fitting import Sighting
from pointsman.requestcontrol.ledger import Ledger, Reservation
from pointsman.requestcontrol.usage import UsageTail

T = TypeVar("T")


class LiveExchange:
    """Implements :class:`pointsman.requestcontrol.exchange.Exchange`."""

    __slots__ = (
        "_clock",
        "_ended",
        "_event_stream",
        "_first_at",
        "_ledger",
        "_locate",
        "_observer",
        "_on_end",
        "_plan",
        "_prefill",
        "_reservation",
        "_served_by",
        "_sighting",
        "_start",
        "_status",
        "_usage",
        "decision",
        "observe_body",
    )

    def __init__(
        self,
        decision: RoutingDecision,
        reservation: Reservation,
        *,
        prefill: Reservation | None = None,
        plan: Plan,
        ledger: Ledger,
        clock: Clock,
        observer: Observer,
        observe_body: bool,
        locate: Callable[[str], Endpoint | None],
        on_end: Callable[[Endpoint, int | None], None] | None = None,
        sighting: Sighting | None = None,
    ) -> None:
        self.decision = decision
        self.observe_body = observe_body
        self._reservation = reservation
        self._prefill = prefill
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._plan = plan
        self._locate = locate
        self._on_end = on_end
        self._sighting = sighting
        self._served_by = decision.endpoints[0]
        self._start = clock.now()
        self._first_at: float | None = None
        self._status: int | None = None
        self._event_stream = True
        self._usage: UsageTail | None = None
        self._ended = False

    def served(self, hostport: str) -> None:
        self.decision.record.served = hostport
        if hostport == self._served_by.hostport or self._ended:
            return
        self._sighting = None
        endpoint = self._locate(hostport)
        if endpoint is None:
            # it is at none of our endpoints, the chosen one included
            self._release()
            return
        self._ledger.move(self._reservation, endpoint.id)
        self._served_by = endpoint

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        # The head of an event stream says nothing about the first token: servers send it before they have one.
        # The head of a plain answer means that all tokens are there.
        self._status = status
        self._event_stream = event_stream
        if not event_stream and not self._ended:
            self._first_token()

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        if self._ended:
            return
        if self._usage is None:
            self._usage = UsageTail()
        if chunk and self._first_at is None:
            self._first_at = self._clock.now()
            if self._event_stream:  # else its head has told already
                self._first_token()
        self._usage.feed(chunk)

    def end(self, cause: EndCause) -> None:
        if self._ended:
            return
        self._ended = True
        self._release()
        request, endpoint = self.decision.request, self._served_by
        outcome = RequestOutcome(
            request=request,
            endpoint=endpoint,
            cause=cause,
            status=self._status,
            ttft_ms=self._ttft_ms(request.stream),
            total_ms=(self._clock.now() - self._start) * 1000,
        )
        if self._usage is not None:
            outcome = _with_usage(outcome, self._usage)
        if self._sighting is not None:
            self._sighting.ended(outcome)
        self._fill_record(outcome)
        observers = self._plan.outcome_observers
        self._tell("ended", [(observer, observer.ended) for observer in observers], outcome)
        if self._plan.shadow is not None:
            self._plan.shadow.ended(outcome)
        self._observer.ended(outcome, self.decision.record)
        if self._on_end is not None:
            self._on_end(endpoint, self._status)

    def _release(self) -> None:
        self._ledger.release(self._reservation)
        if self._prefill is not None:
            self._ledger.release(self._prefill)

    def _first_token(self) -> None:
        self._ledger.first_token(self._reservation)
        if self._prefill is not None:
            self._ledger.first_token(self._prefill)
        observers = self._plan.first_token_observers
        self._tell("first-token", [(observer, observer.first_token) for observer in observers], self.decision.request)
        if self._plan.shadow is not None:
            self._plan.shadow.first_token(self.decision.request)

    def _tell(self, point: str, observers: list[tuple[object, Callable[[T], None]]], news: T) -> None:
        if not observers:
            return
        watchdog = self._plan.watchdog
        watchdog.begin(perf_counter() + self._plan.config.pick_budget / 1000)
        for observer, method in observers:
            name = getattr(observer, "name", "?")
            try:
                watchdog.call(name, method, news)
            except Exception as error:  # noqa: BLE001 - the request goes its way
                report(self._observer, name, point, error)

    def _ttft_ms(self, stream: bool) -> float | None:
        # A plain body, be it a short error, passes by when all is done: only an event stream's first piece is a token.
        if self._first_at is None or not stream or not self._event_stream:
            return None
        return (self._first_at - self._start) * 1000

    def _fill_record(self, outcome: RequestOutcome) -> None:
        record = self.decision.record
        record.status = outcome.status
        record.cause = outcome.cause
        record.ttft_ms = outcome.ttft_ms
        record.total_ms = outcome.total_ms
        record.cached_tokens = outcome.usage.cached_tokens
        record.output_tokens = outcome.usage.output_tokens


def _with_usage(outcome: RequestOutcome, tail: UsageTail) -> RequestOutcome:
    return RequestOutcome(
        request=outcome.request,
        endpoint=outcome.endpoint,
        cause=outcome.cause,
        status=outcome.status,
        ttft_ms=outcome.ttft_ms,
        total_ms=outcome.total_ms,
        usage=tail.read(),
    )
