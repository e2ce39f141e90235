"""How an ext-proc server listens, whichever transport it is."""

from __future__ import annotations

import msgspec

from pointsman.extproc.flow import Http2Limits
from pointsman.extproc.stream import Limits
from pointsman.extproc.tls import TlsFiles


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the server listens.

    Attributes:
        host: address to bind; ``0.0.0.0`` for all.
        port: 0 takes a free one.
        health_port: further port with the health service only, None for none; it is on ``port`` in any case.
        max_message_bytes: largest gRPC message either way; in mode BUFFERED a whole prompt is one message.
        limits: what the streams accept.
        tls: private key and certificate chain in PEM, or the files that hold them and are read again when they
            change; None for plain text.
        unix_path: further listen on this Unix socket, without TLS; not on grpcio.
        http2: what a connection may ask of us, on our own transport; its ``max_message`` is
            ``max_message_bytes`` whatever it says.
        idle_seconds: on our own transport, a connection without calls is asked to leave after this long.
    """

    host: str = "127.0.0.1"
    port: int = 9002
    health_port: int | None = None
    max_message_bytes: int = 64 * 1024 * 1024
    limits: Limits = Limits()
    tls: tuple[bytes, bytes] | TlsFiles | None = None
    unix_path: str | None = None
    http2: Http2Limits = Http2Limits()
    idle_seconds: float = 3600.0
