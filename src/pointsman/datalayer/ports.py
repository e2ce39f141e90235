"""One server with several ports: every ip:port is an endpoint of its own, as llm-d has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.errors import ConfigError

MAX_PORTS = 8
"""Target ports of one server; an InferencePool allows as many."""
ACTIVE_PORTS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")
"""Label (in files) or annotation (in Kubernetes) with the ports in use, such as ``8000,8002``; the newer name first."""


def active_ports(facts: Mapping[str, str], ports: Sequence[int]) -> tuple[int, ...]:
    """Those of a server's ports that are in use, in the server's order.

    Args:
        facts: labels or annotations.
        ports: all of its ports.

    Raises:
        ConfigError: if the fact holds anything but ports; ports the server does not have are no mistake, since one
            annotation may serve pools of several shapes.
    """
    name = next((name for name in ACTIVE_PORTS if name in facts), None)
    if name is None:
        return tuple(ports)
    words = [word.strip() for word in facts[name].split(",") if word.strip()]
    if not all(word.isascii() and word.isdecimal() and len(word) <= 5 for word in words):
        raise ConfigError(f"{name}: {facts[name]!r} is no list of ports", hint="such as 8000,8001")
    active = {int(word) for word in words}
    return tuple(port for port in ports if port in active)


def by_rank(
    name: str, address: str, ports: Sequence[int], *, namespace: str = "default", labels: Mapping[str, str]
) -> list[EndpointSpec]:
    """``NAME-rank-N`` for each port, N being its place in the list.

    A port out of use is left out without a new number for the others, so that they stay the endpoints they were.
    """
    active = active_ports(labels, ports)
    return [
        EndpointSpec(name=f"{name}-rank-{rank}", address=address, port=port, namespace=namespace, labels=labels)
        for rank, port in enumerate(ports)
        if port in active
    ]
