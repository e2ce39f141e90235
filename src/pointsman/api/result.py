"""What is answered: scores, profile results, the routing decision and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest

if TYPE_CHECKING:
    from pointsman.api.record import DecisionRecord

# gc=False below: ten thousand remembered decisions over 64 endpoints are a million objects that can be in no cycle,
# and a collector that visits them stops the event loop for over 100 ms.

EndCause = Literal["complete", "client-abort", "upstream-reset", "refused", "error"]
Unit = Literal["score", "ms"]


class ScoredEndpoint(msgspec.Struct, frozen=True, gc=False):
    """A candidate and its total. Higher is better: a cost of 12 ms has the score -12."""

    endpoint: Endpoint
    score: float


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What one plugin said of every candidate: ``values`` is aligned with the profile's candidates, weight applied."""

    plugin: str
    values: tuple[float, ...]


class Drop(msgspec.Struct, frozen=True, gc=False):
    """Endpoints that one filter took out."""

    plugin: str
    endpoints: tuple[EndpointId, ...]


class ProfileRunResult(msgspec.Struct, frozen=True, gc=False):
    """One profile's run: the chosen endpoints in order of preference and everything that led to it.

    Attributes:
        profile: the profile's name.
        targets: chosen endpoint first, then fallbacks for the proxy's retries.
        candidates: endpoints that passed the filters, with totals.
        terms: per scorer, aligned with ``candidates``.
        drops: what each filter took out.
        unit: "score" (weighted sum of values in [0, 1]) or "ms" (negated cost).
        fallback: None, or why the profile's own pick was not used (``"filters-drained"``, ``"picker-error"`` ...).
    """

    profile: str
    targets: tuple[Endpoint, ...]
    candidates: tuple[ScoredEndpoint, ...] = ()
    terms: tuple[Terms, ...] = ()
    drops: tuple[Drop, ...] = ()
    unit: Unit = "score"
    fallback: str | None = None


class SchedulingResult(msgspec.Struct, frozen=True, gc=False):
    """All profiles that ran; the primary one names the endpoint that gets the request.

    Attributes:
        primary: name of that profile.
        profiles: results by profile.
        stages: work done elsewhere for the primary's endpoint: ``"prefill"`` or ``"encode"``, and the profile that
            chose where. Only what will be done: its profile has targets.
    """

    primary: str
    profiles: Mapping[str, ProfileRunResult]
    stages: Mapping[str, str] = {}

    @property
    def targets(self) -> tuple[Endpoint, ...]:
        return self.profiles[self.primary].targets

    @property
    def chosen(self) -> Endpoint:
        return self.targets[0]

    @property
    def prefiller(self) -> Endpoint | None:
        """The endpoint that computes the prompt's KV blocks for the chosen one; None: that one does so itself."""
        profile = self.stages.get("prefill")
        return self.profiles[profile].targets[0] if profile is not None else None


class RoutingDecision(msgspec.Struct, frozen=True):
    """What goes back to the proxy.

    Attributes:
        request: as it was understood; when ``target_model`` is not ``model``, answers get the client's name back.
        endpoints: chosen endpoint first, then fallbacks for the proxy's retries.
        record: why.
        headers: to set on the request.
        body: in place of the client's; None when its bytes go on unchanged.
        remove_headers: headers of the client's that must not go on.
        answer_headers: asked, with the ``ip:port`` that served (``""`` when unknown), for headers to set on the answer;
            None when there are none.
        load_report: told of the load that an answer carried: the ``ip:port`` it is from, and the header's value.
    """

    request: InferenceRequest
    endpoints: tuple[Endpoint, ...]
    record: DecisionRecord
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    remove_headers: tuple[str, ...] = ()
    answer_headers: Callable[[str], Mapping[str, str]] | None = None
    load_report: Callable[[str, str], None] | None = None

    @property
    def renamed(self) -> bool:
        """Whether the model server knows the model by another name than the client."""
        return self.request.target_model not in ("", self.request.model)

    @property
    def destination(self) -> str:
        """``ip:port[,ip:port...]``: the chosen endpoint, then fallbacks."""
        return ",".join(endpoint.hostport for endpoint in self.endpoints)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts that the engine reported; None where it did not."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


class RequestOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended. Times in milliseconds of the picker's clock since the pick; None when not seen.

    ``ttft_ms`` is set only when the first piece of the answer was really seen (a sampled share in lean mode, every
    request in full mode); ``total_ms`` always.
    """

    request: InferenceRequest
    endpoint: Endpoint
    cause: EndCause
    status: int | None = None
    ttft_ms: float | None = None
    total_ms: float = 0.0
    usage: Usage = Usage()

    @property
    def tpot_ms(self) -> float | None:
        """Mean milliseconds per output token after the first, or None when it cannot be told."""
        tokens = self.usage.output_tokens
        if self.ttft_ms is None or tokens is None or tokens < 2:
            return None
        return (self.total_ms - self.ttft_ms) / (tokens - 1)
