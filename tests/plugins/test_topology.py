"""Topology: where endpoints stand, and the filter and the scorer by nearness to the other stage."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_endpoint, make_plugin, make_request

from pointsman.api.endpoint import Endpoint
from pointsman.framework.keys import PEER_ENDPOINT_KEY
from pointsman.framework.state import CycleState
from pointsman.plugins.filters.topology_affinity import TopologyAffinityFilter
from pointsman.plugins.producers.topology_extractor import TopologyExtractor, nearness, parse_topology
from pointsman.plugins.scorers.topology_affinity import TopologyAffinityScorer


def at(slot: int, host: str = "", rack: str = "", zone: str = "", region: str = "") -> Endpoint:
    names = {
        "kubernetes.io/hostname": host,
        "topology.kubernetes.io/rack": rack,
        "topology.kubernetes.io/zone": zone,
        "topology.kubernetes.io/region": region,
    }
    return make_endpoint(slot, labels={name: value for name, value in names.items() if value})


PEER = at(9, "h1", "r1", "z1", "eu")
ENDPOINTS = [
    at(0, "h1", "r1", "z1", "eu"),
    at(1, "h2", "r1", "z1", "eu"),
    at(2, "h3", "r2", "z1", "eu"),
    at(3, "h4", "r3", "z2", "eu"),
    at(4, "h5", "r4", "z3", "us"),
    at(5),
]


def state_with(peer: Endpoint | None, **parameters: Any) -> CycleState:
    state = CycleState()
    make_plugin(TopologyExtractor, **parameters).produce(make_request(), ENDPOINTS, state)
    if peer is not None:
        state.write(PEER_ENDPOINT_KEY, peer)
    return state


@pytest.mark.parametrize(
    ("level", "kept"),
    [("host", [0]), ("rack", [0, 1]), ("zone", [0, 1, 2]), ("region", [0, 1, 2, 3])],
)
def test_filter(level: str, kept: list[int]) -> None:
    plugin = make_plugin(TopologyAffinityFilter, minAffinity=level)
    result = plugin.filter(make_request(), ENDPOINTS, state_with(PEER))
    assert [endpoint.slot for endpoint in result] == kept


@pytest.mark.parametrize("peer", [None, at(9), at(9, "elsewhere")])
def test_filter_is_a_preference(peer: Endpoint | None) -> None:
    assert make_plugin(TopologyAffinityFilter).filter(make_request(), ENDPOINTS, state_with(peer)) == ENDPOINTS


@pytest.mark.parametrize(
    ("peer", "scores"),
    [(PEER, [1.0, 0.2, 0.05, 0.02, 0.0, 0.0]), (None, [0.0] * 6), (at(9), [0.0] * 6)],
)
def test_scorer(peer: Endpoint | None, scores: list[float]) -> None:
    assert make_plugin(TopologyAffinityScorer).score(make_request(), ENDPOINTS, state_with(peer)) == scores


@pytest.mark.parametrize(
    ("parameters", "peer", "scores"),
    [
        ({"peerTopologyHeader": "X-Peer-Topology"}, None, [0.2, 0.2, 0.05, 0.02, 0.0, 0.0]),
        ({"peerTopologyHeader": "x-peer-topology"}, PEER, [1.0, 0.2, 0.05, 0.02, 0.0, 0.0]),  # what we chose wins
        ({}, None, [0.0] * 6),  # a header nobody asked for is not believed
    ],
)
def test_header(parameters: dict[str, Any], peer: Endpoint | None, scores: list[float]) -> None:
    request = make_request(headers={"x-peer-topology": "rack=r1, zone=z1,region=eu,galaxy=1,junk"})
    plugin = make_plugin(TopologyAffinityScorer, **parameters)
    assert plugin.score(request, ENDPOINTS, state_with(peer)) == scores


def test_parse() -> None:
    assert parse_topology("region=eu,host=h") == ("h", "", "", "eu")
    assert parse_topology("") == ("", "", "", "")


def test_unknown_is_near_to_nothing() -> None:
    assert nearness(("", "r", "", ""), ("", "r", "", "")) == 1
    assert nearness(("", "", "", ""), ("", "", "", "")) == 4


def test_labels_of_ones_own() -> None:
    endpoints = [make_endpoint(0, labels={"node": "a"}), make_endpoint(1, labels={"node": "b"})]
    peer = make_endpoint(2, labels={"node": "b"})
    plugin = make_plugin(TopologyAffinityFilter)
    assert plugin.filter(make_request(), endpoints, state_with(peer, hostname="node")) == [endpoints[1]]
    assert [spec.type for spec in plugin.requires()] == ["topology-extractor"]
    assert make_plugin(TopologyAffinityScorer, topologyProducerName="mine").requires() == ()


def test_refuses() -> None:
    with pytest.raises(msgspec.ValidationError, match="minAffinity"):
        make_plugin(TopologyAffinityFilter, minAffinity="planet")


@given(st.lists(st.text("abc-=, ", max_size=8), max_size=6))
def test_any_header_is_read(parts: list[str]) -> None:
    found = parse_topology(",".join([*parts, "zone=z"]))
    assert found[2] == "z"
    assert nearness(found, found) <= 2
