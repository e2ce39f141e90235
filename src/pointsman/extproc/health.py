"""The books of the gRPC health service: which of our names serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pointsman.extproc import ext_proc_pb2 as pb

EXTERNAL_PROCESSOR = "envoy.service.ext_proc.v3.ExternalProcessor"
"""Full name of the gRPC service that proxies call."""

LIVENESS = "liveness"
NAMES = ("", LIVENESS, "readiness", EXTERNAL_PROCESSOR)
"""Names that health checks may ask for; all but liveness follow the server's readiness."""

SERVING: Any = pb.HealthCheckResponse.SERVING
NOT_SERVING: Any = pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Any = pb.HealthCheckResponse.SERVICE_UNKNOWN


class HealthBook:
    """Answers grpc.health.v1 in bytes.

    Args:
        ready: asked at each check, on top of :attr:`serving`.
    """

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self.serving = False

    def status(self, service: str) -> Any:
        """Status (an enum number) of a service, SERVICE_UNKNOWN for names we do not have."""
        if service not in NAMES:
            return SERVICE_UNKNOWN
        return SERVING if service == LIVENESS or (self.serving and self._ready()) else NOT_SERVING

    def list(self) -> bytes:
        """A HealthListResponse with every name."""
        message = pb.HealthListResponse()
        for name in NAMES:
            message.statuses[name].status = self.status(name)
        data: bytes = message.SerializeToString()
        return data


def service_of(request: bytes) -> str:
    """The name that a HealthCheckRequest asks for.

    Raises:
        google.protobuf.message.DecodeError: on bytes that are none.
    """
    name: str = pb.HealthCheckRequest.FromString(request).service
    return name


def status_reply(status: Any) -> bytes:
    """A HealthCheckResponse."""
    data: bytes = pb.HealthCheckResponse(status=status).SerializeToString()
    return data
