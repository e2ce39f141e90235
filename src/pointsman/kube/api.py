"""What is asked of an API server, and how it says no. Knows no HTTP client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from pointsman.errors import PointsmanError


class KubeError(PointsmanError):
    """Kubernetes could not be asked; what is known stays in force."""

    reason = "kubernetes"
    code = "KubernetesError"


class UnreachableError(KubeError):
    """The API server cannot be reached, or broke off."""

    reason = "kubernetes-unreachable"


class ApiFailure(KubeError):  # noqa: N818 - the server's word
    """The API server answered that it will not.

    Attributes:
        status: the HTTP status.
        why: Kubernetes' one-word reason, such as ``Expired`` or ``Forbidden``.
    """

    def __init__(self, status: int, why: str, message: str) -> None:
        self.status, self.why = status, why
        super().__init__(f"{status} {why}: {message}" if why else f"{status}: {message}")


class Api(Protocol):
    """An API server."""

    async def request(
        self, method: str, path: str, params: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        """One request; raises KubeError."""

    def watch(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """The lines of a watch until the server ends it, the first one empty; raises KubeError."""


class Resource:
    """One collection of objects: a resource of one namespace, perhaps narrowed by selectors."""

    __slots__ = ("group", "params", "path", "plural", "version")

    def __init__(
        self, group: str, version: str, plural: str, namespace: str, *, labels: str = "", name: str = ""
    ) -> None:
        """Name it.

        Args:
            group: API group, empty for Kubernetes' own.
            version: API version.
            plural: such as ``pods``.
            namespace: where.
            labels: a label selector, as the API writes it.
            name: only the object of this name.
        """
        self.group, self.version, self.plural = group, version, plural
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        self.path = f"{root}/namespaces/{namespace}/{plural}"
        self.params: Mapping[str, str] = {
            **({"labelSelector": labels} if labels else {}),
            **({"fieldSelector": f"metadata.name={name}"} if name else {}),
        }

    def __str__(self) -> str:
        return f"{self.plural}.{self.version}.{self.group}" if self.group else f"{self.plural}.{self.version}"
