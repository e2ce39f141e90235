"""The ext-proc service on our own HTTP/2: sockets, TLS, health and a graceful end, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from ssl import SSLContext, SSLError

import msgspec

from pointsman.errors import StartupError
from pointsman.extproc import health
from pointsman.extproc.options import ServerOptions
from pointsman.extproc.peer import Peer
from pointsman.extproc.services import Service, health_services, process_service
from pointsman.extproc.stream import ignore_error
from pointsman.extproc.tls import TlsFiles, TlsKeeper
from pointsman.requestcontrol.exchange import Decider

__all__ = ["ExtProcServer", "ServerOptions", "TlsFiles", "serving"]

_TICK_SECONDS = 1.0
_CUT_SECONDS = 1.0
_BACKLOG = 1024
_HANDSHAKE_SECONDS = 10.0


class ExtProcServer:
    """Serves Envoy's external processor protocol and gRPC health.

    Args:
        decider: makes the decisions.
        options: addresses and limits.
        ready: asked at each health check; false takes the picker out of service, as on a standby replica.
        on_error: told of every failure that is not a refusal, for the log.
    """

    def __init__(
        self,
        decider: Decider,
        options: ServerOptions | None = None,
        *,
        ready: Callable[[], bool] = lambda: True,
        on_error: Callable[[Exception], None] = ignore_error,
    ) -> None:
        self._on_error = on_error
        self._options = options = options or ServerOptions()
        self._http2 = msgspec.structs.replace(options.http2, max_message=options.max_message_bytes)
        self._health = health.HealthBook(ready)
        self._health_services = health_services(self._health)
        self._services = self._health_services | process_service(decider, options.limits, on_error)
        self._listeners: list[asyncio.Server] = []
        self._health_listener: asyncio.Server | None = None
        self._peers: set[Peer] = set()
        self._health_peers: set[Peer] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._tls: TlsKeeper | None = None
        self.port = 0
        self.health_port: int | None = None

    @property
    def serving(self) -> bool:
        """Whether streams are accepted: from :meth:`start` to :meth:`drain`."""
        return self._health.serving

    @property
    def open_streams(self) -> int:
        """Calls under way, those of the health port left out."""
        return sum(peer.open_calls for peer in self._peers)

    async def start(self) -> int:
        """Listen.

        Returns:
            The bound port.

        Raises:
            StartupError: when a port, a socket path or the certificate is not to be had.
        """
        options = self._options
        if options.tls is not None:
            self._tls = TlsKeeper(options.tls)
        try:
            context = None if self._tls is None else self._tls.context
            main = await self._listen(options.port, self._services, self._peers, context)
            self._listeners.append(main)
            self.port = main.sockets[0].getsockname()[1]
            if options.unix_path is not None:
                self._listeners.append(await self._listen_unix(options.unix_path))
            if options.health_port is not None:
                # kubelets check without TLS
                self._health_listener = await self._listen(
                    options.health_port, self._health_services, self._health_peers, None
                )
                self.health_port = self._health_listener.sockets[0].getsockname()[1]
        except StartupError:
            await self.drain(0)
            raise
        self._health.serving = True
        self._ticker = asyncio.create_task(self._tick())
        return self.port

    async def drain(self, seconds: float) -> None:
        """Say NOT_SERVING, take no new streams, give those under way ``seconds`` to end, then stop."""
        self._health.serving = False
        for listener in self._listeners:
            listener.close()
        if self._listeners and self._options.unix_path is not None:
            Path(self._options.unix_path).unlink(missing_ok=True)  # noqa: ASYNC240 - microseconds, at the very end
        self._listeners.clear()
        for peer in list(self._peers):
            peer.leave()
        await self._until_gone(self._peers, seconds)
        await self._cut(self._peers)
        if self._health_listener is not None:
            self._health_listener.close()
            self._health_listener = None
        await self._cut(self._health_peers)
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait({self._ticker})
            self._ticker = None

    def reload_tls(self) -> bool:
        """Read the certificate's files again; connections from now on see the new one.

        Returns:
            Whether it worked; if not, the old one stays in use and the failure is reported.
        """
        try:
            if self._tls is not None:
                self._tls.load()
        except (OSError, SSLError) as error:
            self._on_error(error)
            return False
        return True

    async def _cut(self, peers: set[Peer]) -> None:
        for peer in list(peers):
            peer.cut()
        await self._until_gone(peers, _CUT_SECONDS)
        for peer in list(peers):
            peer.abort()
        await self._until_gone(peers, _CUT_SECONDS)

    @staticmethod
    async def _until_gone(peers: set[Peer], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while peers and loop.time() < deadline:  # noqa: ASYNC110 - only at the end, and with a deadline
            await asyncio.sleep(0.005)

    async def _listen(
        self, port: int, services: Mapping[str, Service], peers: set[Peer], tls: SSLContext | None
    ) -> asyncio.Server:
        host = self._options.host
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(
                lambda: Peer(services, self._http2, peers, alpn=tls is not None),
                *(host, port),
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else _HANDSHAKE_SECONDS,
                backlog=_BACKLOG,
            )
        except (OSError, OverflowError) as error:
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise StartupError(
                f"cannot listen on {address}: {error}; free the port or choose another one (0 takes any free port)"
            ) from error

    async def _listen_unix(self, path: str) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            _refuse_live_socket(path)
            return await loop.create_unix_server(
                lambda: Peer(self._services, self._http2, self._peers, alpn=False), path, backlog=_BACKLOG
            )
        except (OSError, ValueError) as error:
            raise StartupError(f"cannot listen on {path}: {error}; remove it or choose another path") from error

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = loop.time()
            for peer in [*self._peers, *self._health_peers]:
                peer.tick(now, self._options.idle_seconds)
            if self._tls is not None and self._tls.changed():
                self.reload_tls()


def _refuse_live_socket(path: str) -> None:
    """Event loops remove whatever socket is in their way; one that somebody listens on must stay."""
    if not Path(path).exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(path) == 0:
            raise OSError(f"{os.fspath(path)} is in use")


@contextlib.asynccontextmanager
async def serving(server: ExtProcServer, drain_seconds: float = 0.0) -> AsyncIterator[ExtProcServer]:
    """Run a server for the length of a block."""
    await server.start()
    try:
        yield server
    finally:
        await server.drain(drain_seconds)


__all__ = ["ExtProcServer", "ServerOptions", "TlsFiles", "serving"]
