from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from pointsman.observability.kube_metrics import KubeMetrics, ResourceState


def test_the_page() -> None:
    metrics, registry = KubeMetrics(), CollectorRegistry()
    registry.register(metrics)
    assert "pointsman_leader" not in generate_latest(registry).decode()
    metrics.latest = [
        ResourceState("pods.v1", 3, True, 1.5, {"lists": 1, "refused": 2}),
        ResourceState("inferencepools.v1.x", 0, False, None, {"failures": 4}),
    ]
    metrics.leading = True
    page = generate_latest(registry).decode()
    assert 'pointsman_kube_objects{resource="pods.v1"} 3.0' in page
    assert 'pointsman_kube_watched{resource="inferencepools.v1.x"} 0.0' in page
    assert 'pointsman_kube_silence_seconds{resource="pods.v1"} 1.5' in page
    assert 'pointsman_kube_silence_seconds{resource="inferencepools' not in page
    assert 'pointsman_kube_total{resource="pods.v1",what="refused"} 2.0' in page
    assert "pointsman_leader 1.0" in page
