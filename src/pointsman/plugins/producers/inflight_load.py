"""Writes the work in flight per endpoint to the CycleState, for configurations that name llm-d's producer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import INFLIGHT_PRODUCER
from pointsman.framework.plugin import DataProducer, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey


class InflightSnapshot(msgspec.Struct, frozen=True):
    """Work in flight as of one decision, by ``Endpoint.slot``.

    Attributes:
        requests: requests handed over and not ended.
        tokens: their uncached prompt tokens whose prefill is not known to have ended.
    """

    requests: Mapping[int, int]
    tokens: Mapping[int, int]


def inflight_key(producer: str = INFLIGHT_PRODUCER) -> StateKey[InflightSnapshot]:
    """The key under which the producer of that name writes."""
    return StateKey(f"inflight-load/{producer}")


InflightProducerName = Annotated[
    str, Meta(min_length=1, description="Name of the producer whose count of work in flight is read.")
]


def required_inflight(name: str) -> tuple[PluginSpec, ...]:
    """The producer under its default name; one of another name has to be configured."""
    return (PluginSpec(type=INFLIGHT_PRODUCER, name=name),) if name == INFLIGHT_PRODUCER else ()


class InflightLoadParams(Params, frozen=True):
    """Parameters of ``inflight-load-producer``, as in llm-d."""

    add_estimated_output_tokens: Annotated[
        bool, Meta(description="Accepted for llm-d's sake, without effect: tokens are uncached prompt tokens.")
    ] = False
    output_ratio: Annotated[
        float, Meta(ge=0, description="Output tokens per prompt token; accepted for llm-d's sake, without effect.")
    ] = 1.5
    max_estimated_output_tokens: Annotated[
        int | None, Meta(description="Bound on estimated output; accepted for llm-d's sake, without effect.")
    ] = None


@register(INFLIGHT_PRODUCER)
class InflightLoadProducer(DataProducer[InflightLoadParams]):
    """Copies the ledger's counts. Most scorers here ask the ledger itself; this is for those that consume the key."""

    formula = "requests and uncached prompt tokens in flight, by endpoint"
    inputs = "ledger of work in flight"

    def produces(self) -> tuple[StateKey[InflightSnapshot], ...]:
        return (inflight_key(self.name),)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        loads = {endpoint.slot: self.handle.inflight.load(endpoint.id) for endpoint in endpoints}
        snapshot = InflightSnapshot(
            requests={slot: load.requests for slot, load in loads.items()},
            tokens={slot: load.tokens for slot, load in loads.items()},
        )
        state.write(inflight_key(self.name), snapshot)
