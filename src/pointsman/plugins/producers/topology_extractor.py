"""Reads where an endpoint stands (host, rack, zone, region) from its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import DataProducer, Params, PluginSpec, register
from pointsman.framework.state import CycleState, StateKey

TOPOLOGY_EXTRACTOR = "topology-extractor"
LEVELS = ("host", "rack", "zone", "region")
"""From the tightest to the loosest."""

Topology = tuple[str, str, str, str]
"""Names in the order of :data:`LEVELS`; ``""`` where nothing is known."""

TopologyProducerName = Annotated[
    str, Meta(min_length=1, description="Name of the topology-extractor whose labels are used.")
]


class TopologyExtractorParams(Params, frozen=True):
    """Parameters of ``topology-extractor``, as in llm-d: the labels to read."""

    hostname: Annotated[str, Meta(min_length=1, description="Label with the host.")] = "kubernetes.io/hostname"
    rack: Annotated[str, Meta(min_length=1, description="Label with the rack.")] = "topology.kubernetes.io/rack"
    zone: Annotated[str, Meta(min_length=1, description="Label with the zone.")] = "topology.kubernetes.io/zone"
    region: Annotated[str, Meta(min_length=1, description="Label with the region.")] = "topology.kubernetes.io/region"


class TopologyLabels(msgspec.Struct, frozen=True):
    """Reads topologies; by label names in the order of :data:`LEVELS`."""

    names: tuple[str, str, str, str]

    def of(self, endpoint: Endpoint) -> Topology:
        """Where an endpoint stands."""
        labels: Mapping[str, str] = endpoint.labels
        host, rack, zone, region = self.names
        return labels.get(host, ""), labels.get(rack, ""), labels.get(zone, ""), labels.get(region, "")


def topology_key(producer: str = TOPOLOGY_EXTRACTOR) -> StateKey[TopologyLabels]:
    """The key under which the extractor of that name writes."""
    return StateKey(f"topology-labels/{producer}")


def required_topology(name: str) -> tuple[PluginSpec, ...]:
    """The extractor under its default name; one of another name has to be configured."""
    return (PluginSpec(type=TOPOLOGY_EXTRACTOR, name=name),) if name == TOPOLOGY_EXTRACTOR else ()


def parse_topology(header: str) -> Topology:
    """The form ``host=a,rack=b,zone=c,region=d``, in any order; what is missing or not understood is unknown."""
    pairs = dict(pair.strip().partition("=")[::2] for pair in header.split(","))
    host, rack, zone, region = (pairs.get(level, "") for level in LEVELS)
    return host, rack, zone, region


def nearness(one: Topology, other: Topology) -> int:
    """Index in :data:`LEVELS` of the tightest level that both share; 4 for none. Unknown equals nothing."""
    for level, (a, b) in enumerate(zip(one, other, strict=True)):
        if a and a == b:
            return level
    return len(LEVELS)


@register(TOPOLOGY_EXTRACTOR)
class TopologyExtractor(DataProducer[TopologyExtractorParams]):
    """Labels of the pod only: Kubernetes copies region and zone there, host and rack are for whoever deploys."""

    formula = "host, rack, zone and region from the labels named"
    inputs = "labels of the endpoint"

    def setup(self) -> None:
        params = self.params
        self._labels = TopologyLabels((params.hostname, params.rack, params.zone, params.region))

    def produces(self) -> tuple[StateKey[TopologyLabels], ...]:
        return (topology_key(self.name),)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        state.write(topology_key(self.name), self._labels)
