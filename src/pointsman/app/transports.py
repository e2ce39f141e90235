"""The picker's transports: our own HTTP/2 server, and grpcio as reference and fallback, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from pointsman.errors import ConfigError
from pointsman.extproc import grpcio_server, server
from pointsman.extproc.options import ServerOptions
from pointsman.extproc.stream import Limits
from pointsman.extproc.tls import TlsFiles
from pointsman.requestcontrol.exchange import Decider

Transport = Literal["native", "grpcio"]

MESSAGE_SLACK = 1024 * 1024
"""Room in a gRPC message beyond the largest body: headers, attributes, framing."""


class TransportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how the ext-proc service listens. ``tls_cert`` and ``tls_key`` are PEM files, both or none."""

    transport: Transport = "native"
    host: str = "127.0.0.1"
    port: int = 9002
    health_port: int | None = None
    unix_path: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_body_bytes: int = 32 * 1024 * 1024


class TransportServer(Protocol):
    """What the picker asks of a transport."""

    port: int

    @property
    def serving(self) -> bool:
        """From start to drain."""

    async def start(self) -> int:
        """Listen; returns the port."""

    async def drain(self, seconds: float) -> None:
        """Take no more work, let what is under way end, stop."""


def make_server(
    decider: Decider, options: TransportOptions, ready: Callable[[], bool], on_error: Callable[[Exception], None]
) -> TransportServer:
    """Build the server that the options ask for.

    Raises:
        ConfigError: if the options do not go together.
    """
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigError("a certificate and its key belong together", hint="give both --tls-cert and --tls-key")
    server_options = ServerOptions(
        host=options.host,
        port=options.port,
        health_port=options.health_port,
        unix_path=options.unix_path,
        tls=TlsFiles(key=str(options.tls_key), certificate=str(options.tls_cert)) if options.tls_cert else None,
        max_message_bytes=options.max_body_bytes + MESSAGE_SLACK,
        limits=Limits(max_body_bytes=options.max_body_bytes),
    )
    if options.transport == "native":
        return server.ExtProcServer(decider, server_options, ready=ready, on_error=on_error)
    return grpcio_server.ExtProcServer(decider, server_options, ready=ready, on_error=on_error)
