"""The answer to one request on its way through us: what its exchange is told, and what changes in it.

Nothing does but with a model that the client calls by another name: then the name is put back, in any body mode in
which we are shown the body. Where there is none (NONE, and the proxy does not let us ask), the server's name stays.
"""

from __future__ import annotations

from collections.abc import Callable

from pointsman.api.result import RoutingDecision
from pointsman.extproc import wire
from pointsman.extproc.bodies import WHOLE, chunks, number
from pointsman.extproc.wire import BodyMode, Continue
from pointsman.requestcontrol.exchange import Exchange
from pointsman.requestcontrol.rewrite import ModelRestorer

LOAD_METRICS = "endpoint-load-metrics"
"""Header with the server's load (ORCA); vLLM sends it when the request asked for it."""


class Answer:
    """One answer. ``exchange`` is None for one that the proxy made itself before a decision."""

    __slots__ = ("_exchange", "_mode", "_on_error", "_request_mode", "_restorer")

    def __init__(
        self,
        exchange: Exchange | None,
        on_error: Callable[[Exception], None],
        request_mode: BodyMode,
        mode: BodyMode,
    ) -> None:
        self._exchange, self._on_error = exchange, on_error
        self._request_mode, self._mode = request_mode, mode
        self._restorer: ModelRestorer | None = None

    def head(self, event: wire.ResponseHeaders, *, may_ask: bool) -> list[wire.Action]:
        """Its head arrived; ``may_ask`` lets us ask for a body that the proxy would not show."""
        exchange = self._exchange
        if exchange is None:
            return [Continue("response_headers")]
        status = number(event.headers.get(":status", ""))
        stream = event.headers.get("content-type", "").lower().startswith("text/event-stream")
        served = event.served
        if served:
            self._tell(lambda: exchange.served(served))
        self._tell(lambda: exchange.response_headers(status, event_stream=stream))
        decision = exchange.decision
        load, report = event.headers.get(LOAD_METRICS), decision.load_report
        if load and report is not None:
            self._tell(lambda: report(served or decision.endpoints[0].hostport, load))
        headers = self._headers(decision, served) if decision.answer_headers else ()
        if event.end_of_stream:
            return [Continue("response_headers", None, headers)]
        restore = decision.renamed and event.headers.get("content-encoding", "identity") == "identity"
        asked = None
        # Envoy 1.40 takes no notice of the wish when the request went FULL_DUPLEX_STREAMED
        possible = may_ask and self._mode == BodyMode.NONE and self._request_mode != BodyMode.FULL_DUPLEX_STREAMED
        if possible and (restore or (status == 200 and exchange.observe_body)):
            self._mode = asked = BodyMode.STREAMED
        if not restore or self._mode == BodyMode.NONE:
            return [Continue("response_headers", asked, headers)]
        self._restorer = ModelRestorer(decision.request.target_model, decision.request.model)
        removed = ("content-length",) if "content-length" in event.headers else ()
        return [Continue("response_headers", asked, headers, removed)]

    def body(self, event: wire.ResponseBody, *, told: bool) -> list[wire.Action]:
        """A piece of its body arrived; ``told`` is false once the exchange has ended."""
        exchange, data = self._exchange, event.data
        if exchange is not None and told:
            self._tell(lambda: exchange.response_body(event.data, last=event.end_of_stream))
        if self._restorer is not None:
            data = self._restorer.feed(data, last=event.end_of_stream or self._mode in WHOLE)
        if self._mode == BodyMode.FULL_DUPLEX_STREAMED:
            return list(chunks(data, last=event.end_of_stream, response=True))
        return [Continue("response_body")] if data == event.data else [wire.Replace(data)]

    def trailers(self) -> list[wire.Action]:
        """It ended with trailers: let go what was held back.

        In other modes than full duplex there is no way to. But only an answer that breaks off amid a name loses
        anything, and of that name the first half.
        """
        if self._restorer is None or self._mode != BodyMode.FULL_DUPLEX_STREAMED:
            return []
        return list(chunks(self._restorer.feed(b"", last=True), last=False, response=True))

    def _headers(self, decision: RoutingDecision, served: str) -> tuple[tuple[str, str], ...]:
        try:
            return tuple(decision.answer_headers(served).items()) if decision.answer_headers else ()
        except Exception as error:  # noqa: BLE001 - as in _tell
            self._on_error(error)
            return ()

    def _tell(self, call: Callable[[], None]) -> None:
        # an answer on its way is worth more than our books
        try:
            call()
        except Exception as error:  # noqa: BLE001 - exchanges promise not to raise; plugins behind them may be anyone's
            self._on_error(error)
