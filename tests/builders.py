"""Small builders for tests: say what matters, get the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeVar

import msgspec

from pointsman.api.endpoint import (
    MODEL_LABEL,
    NO_GROWTH,
    NO_LOAD,
    Endpoint,
    EndpointId,
    EndpointMetrics,
    Growth,
    InflightLoad,
    LoraState,
)
from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest
from pointsman.api.result import (
    EndCause,
    ProfileRunResult,
    RequestOutcome,
    SchedulingResult,
    ScoredEndpoint,
    Usage,
)
from pointsman.clock import Clock, ManualClock
from pointsman.framework.keys import PrefixMatch, prefix_match_key
from pointsman.framework.plugin import CostModel, Handle, Plugin
from pointsman.framework.state import CycleState
from pointsman.latency.model import DEFAULT_PROFILE, LATENCY_PROFILES

PluginT = TypeVar("PluginT", bound=Plugin[Any])


def make_endpoint(
    slot: int = 0,
    *,
    model: str | None = None,
    labels: Mapping[str, str] | None = None,
    lora: LoraState | None = None,
    **metrics: Any,
) -> Endpoint:
    """Endpoint ``default/pod-<slot>`` at 10.0.0.<slot>:8000; keywords are fields of its metrics.

    Given any, they were read at 100 s, when the clock of :func:`make_handle` stands still.
    """
    if metrics:
        metrics.setdefault("updated", 100.0)
    all_labels = dict(labels or {}) | ({MODEL_LABEL: model} if model else {})
    return Endpoint(
        id=EndpointId(f"default/pod-{slot}"),
        address=f"10.0.0.{slot}",
        port=8000,
        slot=slot,
        labels=all_labels,
        metrics=EndpointMetrics(lora=lora or LoraState(), **metrics),
    )


def make_endpoints(count: int, **metrics: Any) -> list[Endpoint]:
    """Endpoints in slots 0 to ``count - 1``, all alike."""
    return [make_endpoint(slot, **metrics) for slot in range(count)]


def make_request(prompt: bytes | str = b"", **fields: Any) -> InferenceRequest:
    """A request; ``prompt_tokens`` is estimated from the prompt unless given."""
    data = prompt.encode() if isinstance(prompt, str) else prompt
    defaults: dict[str, Any] = {"id": "r1", "model": "m", "prompt_tokens": -(-len(data) // BYTES_PER_TOKEN)}
    return InferenceRequest(prompt=data, **(defaults | fields))


class FixedLoads:
    """A ledger that says what it was told, by endpoint id or by slot of a built endpoint."""

    def __init__(
        self, loads: Mapping[int | str, InflightLoad] | None = None, growths: Mapping[int, Growth] | None = None
    ) -> None:
        self.loads = {
            f"default/pod-{key}" if isinstance(key, int) else key: load for key, load in (loads or {}).items()
        }
        self.growths = {f"default/pod-{slot}": growth for slot, growth in (growths or {}).items()}

    def load(self, endpoint: EndpointId) -> InflightLoad:
        return self.loads.get(endpoint, NO_LOAD)

    def since(self, endpoint: EndpointId, moment: float) -> Growth:
        return self.growths.get(endpoint, NO_GROWTH)


def make_handle(
    loads: Mapping[int | str, InflightLoad] | None = None,
    *,
    growths: Mapping[int, Growth] | None = None,
    clock: Clock | None = None,
    seed: int = 0,
    cost: CostModel | None = None,
) -> Handle:
    """A handle with a still clock at 100 s, seeded randomness, given loads and the default latency model."""
    return Handle(
        clock=clock or ManualClock(100.0),
        rng=Random(seed),
        inflight=FixedLoads(loads, growths),
        cost=cost or LATENCY_PROFILES[DEFAULT_PROFILE],
    )


def make_plugin(cls: type[PluginT], handle: Handle | None = None, name: str = "", **parameters: Any) -> PluginT:
    """A plugin with parameters as a file writes them (camelCase), checked the same way."""
    params = msgspec.convert(parameters, cls.Params)
    return cls(params, handle or make_handle(), name)


def make_state(match: PrefixMatch | None = None, producer: str = "approx-prefix-cache-producer") -> CycleState:
    """A sealed state, with a prefix match when given."""
    state = CycleState()
    if match is not None:
        state.write(prefix_match_key(producer), match)
    state.seal()
    return state


def make_candidates(*scores: float) -> list[ScoredEndpoint]:
    """Scored endpoints in slots 0, 1, ..."""
    return [ScoredEndpoint(make_endpoint(slot), score) for slot, score in enumerate(scores)]


def make_result(chosen: Endpoint, candidates: Sequence[Endpoint] = (), profile: str = "default") -> SchedulingResult:
    """The result of one profile that chose ``chosen`` among ``candidates`` (all scores 0)."""
    run = ProfileRunResult(
        profile=profile,
        targets=(chosen,),
        candidates=tuple(ScoredEndpoint(endpoint, 0.0) for endpoint in candidates or (chosen,)),
    )
    return SchedulingResult(primary=profile, profiles={profile: run})


def make_outcome(
    endpoint: Endpoint,
    request: InferenceRequest | None = None,
    *,
    cause: EndCause = "complete",
    output_tokens: int | None = None,
    **fields: Any,
) -> RequestOutcome:
    """How a request ended; status 200 unless given."""
    defaults: dict[str, Any] = {"status": 200, "usage": Usage(output_tokens=output_tokens)}
    return RequestOutcome(request=request or make_request(), endpoint=endpoint, cause=cause, **(defaults | fields))
