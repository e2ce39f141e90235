"""One request under way in a simulation, and how the picker sees its answer pass by."""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from pointsman.lab.fleet import LabPod
from pointsman.lab.requests import LabRequest
from pointsman.lab.results import Row
from pointsman.requestcontrol.exchange import Exchange
from pointsman.sim.emission import Emission

Cause = Literal["complete", "refused", "upstream-reset"]
_FIRST_CHUNK = b'data: {"choices":[{"index":0,"text":"."}]}\n\n'


class Flight:
    """A request from its arrival to its end."""

    __slots__ = ("exchange", "pod", "request", "row", "targets")

    def __init__(self, request: LabRequest, row: Row) -> None:
        self.request, self.row = request, row
        self.exchange: Exchange | None = None
        self.targets: list[LabPod] = []
        self.pod: LabPod | None = None

    def seen(self, emission: Emission, now: float) -> None:
        """News from the engine reach the client at ``now``."""
        row, exchange = self.row, self.exchange
        assert exchange is not None
        if row.first_token < 0:
            row.first_token = now
            row.cached_tokens = emission.cached
            exchange.response_headers(200, event_stream=True)
            if exchange.observe_body:
                exchange.response_body(_FIRST_CHUNK, last=False)
        if emission.finished is not None:
            row.end = now
            if exchange.observe_body:
                exchange.response_body(self._usage(), last=True)

    def close(self, status: int, cause: str, now: float) -> None:
        """The request is over, one way or another."""
        row = self.row
        row.status = status
        if row.end < 0:
            row.end = now
        if self.exchange is not None:
            if status != 200:
                self.exchange.response_headers(status, event_stream=False)
            self.exchange.end(cast("Literal['complete', 'upstream-reset']", cause))

    def _usage(self) -> bytes:
        row = self.row
        usage = {
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.output_tokens,
            "total_tokens": row.prompt_tokens + row.output_tokens,
            "prompt_tokens_details": {"cached_tokens": row.cached_tokens},
        }
        return b"data: " + msgspec.json.encode({"choices": [], "usage": usage}) + b"\n\ndata: [DONE]\n\n"
