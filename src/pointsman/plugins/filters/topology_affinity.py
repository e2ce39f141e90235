"""Keeps endpoints near the one that does the request's other stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins._peers import PeerTopologyHeader, nearness_to_peer
from pointsman.plugins.producers.topology_extractor import (
    LEVELS,
    TOPOLOGY_EXTRACTOR,
    TopologyLabels,
    TopologyProducerName,
    required_topology,
    topology_key,
)


class TopologyAffinityFilterParams(Params, frozen=True):
    """Parameters of ``topology-affinity-filter``, as in llm-d."""

    min_affinity: Annotated[
        Literal["host", "rack", "zone", "region"],
        Meta(description="What an endpoint must share with the other stage's, or something tighter."),
    ] = "host"
    topology_producer_name: TopologyProducerName = TOPOLOGY_EXTRACTOR
    peer_topology_header: PeerTopologyHeader = ""


@register("topology-affinity-filter")
class TopologyAffinityFilter(Filter[TopologyAffinityFilterParams]):
    """A preference: it keeps all when none is near enough, or nothing is known of the other stage."""

    formula = "keep those that share minAffinity or a tighter level with the peer; all if there are none"
    inputs = "endpoint of the other stage (or a header), labels of the endpoint"

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_topology(self.params.topology_producer_name)

    def consumes(self) -> tuple[StateKey[TopologyLabels], ...]:
        return (topology_key(self.params.topology_producer_name),)

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        params = self.params
        near = nearness_to_peer(request, endpoints, state, params.topology_producer_name, params.peer_topology_header)
        if near is None:
            return endpoints
        floor = LEVELS.index(params.min_affinity)
        return [endpoint for endpoint, level in zip(endpoints, near, strict=True) if level <= floor] or endpoints
