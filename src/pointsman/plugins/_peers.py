"""How near endpoints are to the one that does the request's other stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import PEER_ENDPOINT_KEY
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.topology_extractor import nearness, parse_topology, topology_key

PeerTopologyHeader = Annotated[
    str,
    Meta(
        description="Request header that says where the other stage's endpoint is, as host=a,rack=b,zone=c,region=d "
        "(llm-d's coordinator sends x-peer-topology), used where this picker did not choose it. Empty: none. Clients "
        "can send it, too."
    ),
]


def nearness_to_peer(
    request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState, producer: str, header: str
) -> list[int] | None:
    """Per endpoint the level it shares with the peer (0 host to 3 region, 4 none).

    Returns:
        None when nothing is known of a peer.
    """
    labels = state.read(topology_key(producer))
    peer = state.get(PEER_ENDPOINT_KEY)
    topology = labels.of(peer) if peer is not None else None
    if topology is None or not any(topology):
        topology = parse_topology(request.headers.get(header.strip().lower(), "")) if header else None
    if topology is None or not any(topology):
        return None
    return [nearness(topology, labels.of(endpoint)) for endpoint in endpoints]
