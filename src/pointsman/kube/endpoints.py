"""Pods to endpoints: one for each pod that may get requests and each port of the pool, as llm-d counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.discovery import check_address
from pointsman.datalayer.ports import ACTIVE_PORTS
from pointsman.errors import ConfigError
from pointsman.kube.objects import Pod, Pool


def pool_endpoints(pool: Pool, pods: Iterable[Pod]) -> list[EndpointSpec]:
    """The endpoints of a pool, in the order of the pods' names.

    An endpoint is called ``<pod>-rank-<index of its port>``. A pod without a usable address is left out. When two pods
    claim one address and port, as after a reused IP whose old pod was not seen to go, the younger one has it.
    """
    places: dict[tuple[str, int], EndpointSpec] = {}
    chosen = [pod for pod in pods if pod.ready and _selected(pool, pod)]
    for pod in sorted(chosen, key=lambda pod: (pod.metadata.creation_timestamp or "", pod.metadata.name)):
        for spec in _pod_endpoints(pool, pod):
            places[spec.address, spec.port] = spec
    return sorted(places.values(), key=lambda spec: (spec.namespace, spec.name))


def _selected(pool: Pool, pod: Pod) -> bool:
    labels = pod.metadata.labels or {}
    return all(labels.get(key) == value for key, value in pool.selector.items())


def _pod_endpoints(pool: Pool, pod: Pod) -> list[EndpointSpec]:
    try:
        address = check_address(pod.status.pod_ip)
    except ConfigError:
        return []
    active = active_ports(pod, pool.ports)
    labels = dict(pod.metadata.labels or {})
    return [
        EndpointSpec(
            f"{pod.metadata.name}-rank-{rank}", address, port, pod.metadata.namespace or pool.namespace, labels
        )
        for rank, port in enumerate(pool.ports)
        if port in active
    ]


def active_ports(pod: Pod, ports: Sequence[int]) -> set[int]:
    """Those of a pool's ports at which a pod takes part: all, unless its annotation names some.

    What in the annotation is no port of the pool does not count, so one that names none of them takes the pod out.
    """
    annotations = pod.metadata.annotations or {}
    for name in ACTIVE_PORTS:
        if name in annotations:
            return {int(part) for part in map(str.strip, annotations[name].split(",")) if part in map(str, ports)}
    return set(ports)
