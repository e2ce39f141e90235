"""Prefers endpoints near the one that does the request's other stage."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins._peers import PeerTopologyHeader, nearness_to_peer
from pointsman.plugins.producers.topology_extractor import (
    TOPOLOGY_EXTRACTOR,
    TopologyLabels,
    TopologyProducerName,
    required_topology,
    topology_key,
)

SCORES = (1.0, 0.2, 0.05, 0.02, 0.0)
"""llm-d's curve: NVLink within a host, one switch in a rack, several in a zone, between data centres, none."""


class TopologyAffinityScorerParams(Params, frozen=True):
    """Parameters of ``topology-affinity-scorer``: llm-d's, and the filter's ``peerTopologyHeader``."""

    topology_producer_name: TopologyProducerName = TOPOLOGY_EXTRACTOR
    peer_topology_header: PeerTopologyHeader = ""


@register("topology-affinity-scorer")
class TopologyAffinityScorer(Scorer[TopologyAffinityScorerParams]):
    """By what moving a KV cache between the two costs."""

    formula = "1 on the peer's host, 0.2 in its rack, 0.05 in its zone, 0.02 in its region, else 0"
    inputs = "endpoint of the other stage (or a header), labels of the endpoint"

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_topology(self.params.topology_producer_name)

    def consumes(self) -> tuple[StateKey[TopologyLabels], ...]:
        return (topology_key(self.params.topology_producer_name),)

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        params = self.params
        near = nearness_to_peer(request, endpoints, state, params.topology_producer_name, params.peer_topology_header)
        return [0.0] * len(endpoints) if near is None else [SCORES[level] for level in near]
