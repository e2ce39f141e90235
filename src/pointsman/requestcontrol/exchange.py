"""An exchange: one HTTP request from the pick to its end, told to everyone exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeGuard

from pointsman.api.request import RequestHead
from pointsman.api.result import EndCause, RoutingDecision


class Exchange(Protocol):
    """The life of one routed request. Methods never raise and never block."""

    decision: RoutingDecision
    observe_body: bool
    """Whether the response body should be shown to us (a sampled share), if the proxy allows to ask for it."""

    def served(self, hostport: str) -> None:
        """The proxy tells who answers; said before :meth:`response_headers`, if at all."""

    def response_headers(self, status: int, *, event_stream: bool) -> None:
        """The head of the answer arrived."""

    def response_body(self, chunk: bytes, *, last: bool) -> None:
        """A piece of the answer passed by; the first one marks the first token, usage is read from the tail."""

    def end(self, cause: EndCause) -> None:
        """The request is over. Later calls do nothing."""


class Pending(Protocol):
    """An exchange that is not there yet, as of a request that waits in a queue. A ``Future`` is one."""

    def add_done_callback(self, fn: Callable[[Pending], object], /) -> object:
        """Call ``fn`` with this object once :meth:`result` has something to say."""

    def result(self) -> Exchange:
        """The exchange.

        Raises:
            RequestError: the client must be refused.
        """

    def cancel(self) -> object:
        """The client has left. Should an exchange be made all the same, it is ended by whoever asked for it."""


def is_pending(answer: Exchange | Pending) -> TypeGuard[Pending]:
    """Whether a decider's answer comes later."""
    return hasattr(answer, "add_done_callback")


class Decider(Protocol):
    """What a transport needs of the Director."""

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange | Pending:
        """Choose endpoints for a request, now or later.

        Args:
            head: the request's head.
            body: the whole body, empty for requests without one.
            received: ``time.perf_counter()`` at the last body byte, for the scheduling latency.

        Raises:
            RequestError: when the client must be refused; every other failure is turned into a decision made with
                less knowledge.
        """
