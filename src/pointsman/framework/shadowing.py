"""A second plan beside the one in force, as those see it who make and tell decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pointsman.api.endpoint import Endpoint, InflightLoad
from pointsman.api.record import DecisionRecord
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RequestOutcome, SchedulingResult
from pointsman.framework.state import CycleState

if TYPE_CHECKING:
    from pointsman.framework.plan import Plan


class Decided(NamedTuple):
    """A decision, and the facts that it was made on."""

    request: InferenceRequest
    candidates: Sequence[Endpoint]
    state: CycleState
    result: SchedulingResult
    record: DecisionRecord
    before: InflightLoad
    """What was in flight at the chosen endpoint before this request was added to it."""
    uncached_tokens: int
    """What was added."""


class Shadowing(Protocol):
    """Looks at decisions without acting on them. No method raises or waits."""

    @property
    def plan(self) -> Plan:
        """By which it judges."""

    def decided(self, decision: Decided) -> None:
        """A decision was made; what follows from it is worked out when the answer is on its way."""

    def first_token(self, request: InferenceRequest) -> None:
        """A first token was seen."""

    def ended(self, outcome: RequestOutcome) -> None:
        """A request ended."""

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """An endpoint is gone for good."""
