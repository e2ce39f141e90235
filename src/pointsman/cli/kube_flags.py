"""The flags about Kubernetes, under llm-d's names where it has them."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from pointsman.app.kubernetes import KubeOptions
from pointsman.datalayer.discovery import check_port
from pointsman.errors import ConfigError
from pointsman.kube.objects import POOL_GROUP

_GROUP = Group("Kubernetes", sort_key=50)


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True)
class KubeFlags:
    """What to follow in Kubernetes."""

    pool_name: Annotated[str, Parameter(help="InferencePool whose pods to choose among.")] = ""
    pool_namespace: Annotated[
        str, Parameter(help="Its namespace; by default $NAMESPACE, or that of the service account or kubeconfig.")
    ] = ""
    pool_group: Annotated[str, Parameter(help="Its API group; inference.networking.x-k8s.io for a v1alpha2 pool.")] = (
        POOL_GROUP
    )
    endpoint_selector: Annotated[
        str, Parameter(help="Labels of the pods, such as app=vllm,tier=decode: no InferencePool is needed.")
    ] = ""
    endpoint_target_ports: Annotated[
        str, Parameter(help="With --endpoint-selector: 1 to 8 ports, such as 8000,8001; each is an endpoint.")
    ] = ""
    kubeconfig: Annotated[
        Path | None, Parameter(help="Kubeconfig file; by default the pod's service account, or $KUBECONFIG.")
    ] = None
    leader_election: Annotated[
        bool, Parameter(help="Only one of several pickers is ready at a time (by a Lease). All are by default.")
    ] = False

    def options(self) -> KubeOptions | None:
        """The same as options; None when no flag names a pool.

        Raises:
            ConfigError: if a port is none, or other flags are given without a pool.
        """
        if not (self.pool_name or self.endpoint_selector or self.endpoint_target_ports):
            given = next((field.name for field in fields(self) if getattr(self, field.name) != field.default), None)
            if given is not None:
                flag = "--" + given.replace("_", "-")
                raise ConfigError(f"{flag} needs a pool", field="--pool-name", hint="or --endpoint-selector")
            return None
        ports = tuple(_port(text) for text in filter(None, re.split(r"[,\s]+", self.endpoint_target_ports)))
        return KubeOptions(
            pool_name=self.pool_name,
            pool_namespace=self.pool_namespace,
            pool_group=self.pool_group,
            selector=self.endpoint_selector,
            target_ports=ports,
            kubeconfig=self.kubeconfig,
            leader_election=self.leader_election,
        )


def _port(text: str) -> int:
    try:
        return check_port(text)
    except ConfigError as error:
        raise error.at(field="--endpoint-target-ports") from None
