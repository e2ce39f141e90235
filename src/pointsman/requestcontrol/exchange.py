"""An exchange: one HTTP request from the pick to its end, told to everyone exactly once."""

from __future__ import annotations

from typing import Protocol

from pointsman.api.request import RequestHead
from pointsman.api.result import EndCause, RoutingDecision


class Exchange(Protocol):
    """The life of one routed request. Methods never raise and never block."""

    decision: RoutingDecision
    observe_body: bool
    """Whether the response body should be shown to us (a sampled share), if the proxy allows to ask for it."""

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        """The head of the answer arrived."""

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        """A piece of the answer passed by; the first one marks the first token, usage is read from the tail."""

    def end(self, cause: EndCause) -> None:
        """The request is over. Later calls do nothing."""


class Decider(Protocol):
    """What a transport needs of the Director."""

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange:
        """Choose endpoints for a request.

        Args:
            head: the request's head.
            body: the whole body, empty for requests without one.
            received: ``time.perf_counter()`` at the last body byte, for the scheduling latency.

        Raises:
            RequestError: when the client must be refused; every other failure is turned into a decision made with
                less knowledge.
        """
