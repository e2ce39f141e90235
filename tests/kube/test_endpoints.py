from __future__ import annotations

import pytest

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.kube.endpoints import active_ports, pool_endpoints
from pointsman.kube.objects import Condition, Metadata, Pod, PodStatus, Pool

READY = [Condition("Ready", "True")]
POOL = Pool("pool", "ns", {"app": "vllm"}, (8000, 8001))


def _pod(name: str, ip: str, *, age: str = "2026-01-01T00:00:00Z", app: str = "vllm") -> Pod:
    meta = Metadata(name, "ns", labels={"app": app}, creation_timestamp=age)
    return Pod(meta, PodStatus(ip, READY))


def test_one_endpoint_for_each_port() -> None:
    assert pool_endpoints(POOL, [_pod("b", "10.0.0.2"), _pod("a", "fd00:0::1")]) == [
        EndpointSpec("a-rank-0", "fd00::1", 8000, "ns", {"app": "vllm"}),
        EndpointSpec("a-rank-1", "fd00::1", 8001, "ns", {"app": "vllm"}),
        EndpointSpec("b-rank-0", "10.0.0.2", 8000, "ns", {"app": "vllm"}),
        EndpointSpec("b-rank-1", "10.0.0.2", 8001, "ns", {"app": "vllm"}),
    ]


def test_only_selected_pods_with_an_address() -> None:
    assert pool_endpoints(POOL, [_pod("a", ""), _pod("b", "nonsense"), _pod("c", "10.0.0.3", app="redis")]) == []


def test_of_two_pods_at_one_place_the_younger_has_it() -> None:
    old, new = _pod("z", "10.0.0.1"), _pod("a", "10.0.0.1", age="2026-02-01T00:00:00Z")
    for order in ([old, new], [new, old]):
        assert [spec.name for spec in pool_endpoints(POOL, order)] == ["a-rank-0", "a-rank-1"]


@pytest.mark.parametrize(
    ("annotations", "active"),
    [
        ({}, {8000, 8001}),
        ({"llm-d.ai/active-ports": "8001"}, {8001}),
        ({"llm-d.ai/active-ports": " 8001 , 8000,9000"}, {8000, 8001}),
        ({"llm-d.ai/active-ports": ""}, set()),
        ({"llm-d.ai/active-ports": "all"}, set()),
        ({"inference.networking.k8s.io/active-ports": "8000"}, {8000}),
        ({"inference.networking.k8s.io/active-ports": "8000", "llm-d.ai/active-ports": "8001"}, {8001}),
    ],
)
def test_active_ports(annotations: dict[str, str], active: set[int]) -> None:
    assert active_ports(Pod(Metadata("a", annotations=annotations)), (8000, 8001)) == active


def test_a_rank_keeps_its_number_when_another_port_rests() -> None:
    pod = Pod(
        Metadata("a", "ns", labels={"app": "vllm"}, annotations={"llm-d.ai/active-ports": "8001"}),
        PodStatus("10.0.0.1", READY),
    )
    assert [(spec.name, spec.port) for spec in pool_endpoints(POOL, [pod])] == [("a-rank-1", 8001)]
