"""The ext-proc service on grpcio: the reference transport."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pointsman.errors import StartupError
from pointsman.extproc import health
from pointsman.extproc.codec import decode_request, encode_response
from pointsman.extproc.options import ServerOptions
from pointsman.extproc.stream import Stream, ignore_error
from pointsman.extproc.tls import TlsFiles
from pointsman.extproc.wire import Action, WireError
from pointsman.requestcontrol.exchange import Decider

__all__ = ["ExtProcServer", "ServerOptions", "serving"]

_WATCH_SECONDS = 1.0


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
        self._decider, self._on_error = decider, on_error
        self._options = options or ServerOptions()
        self._health = health.HealthBook(ready)
        self._servers: list[Any] = []
        self._streams: set[Stream] = set()
        self.port = 0
        self.health_port: int | None = None

    @property
    def serving(self) -> bool:
        """Whether streams are accepted: from :meth:`start` to :meth:`drain`."""
        return self._health.serving

    async def start(self) -> int:
        """Listen.

        Returns:
            The bound port.

        Raises:
            StartupError: when a port is not to be had.
        """
        options = self._options
        handlers = (self._process_handler(), self._health_handler())
        if options.unix_path is not None:
            raise StartupError("the grpcio transport has no Unix socket; leave --unix-path or --transport out")
        self.port = await self._listen(options.port, handlers, tls=_key_and_chain(options.tls))
        if options.health_port is not None:
            # kubelets check without TLS
            self.health_port = await self._listen(options.health_port, handlers[1:], tls=None)
        self._health.serving = True
        return self.port

    async def drain(self, seconds: float) -> None:
        """Say NOT_SERVING, take no new streams, give those under way ``seconds`` to end, then stop."""
        self._health.serving = False
        main, *others = self._servers or [None]
        self._servers = []
        if main is not None:
            stopping = asyncio.create_task(main.stop(seconds + 1.0))
            await asyncio.wait({stopping}, timeout=seconds)
            for stream in self._streams:
                stream.close(shutdown=True)  # of what is cut off now, nothing is the client's doing
            await main.stop(0)
            await stopping
        for server in others:
            await server.stop(0)

    async def _listen(self, port: int, handlers: tuple[Any, ...], tls: tuple[bytes, bytes] | None) -> int:
        options = self._options
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a second picker on the same port must fail, not share it
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
            ]
        )
        server.add_generic_rpc_handlers(handlers)
        address = f"[{options.host}]:{port}" if ":" in options.host else f"{options.host}:{port}"
        try:
            if tls is None:
                bound: int = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
            await server.start()
        except (RuntimeError, ValueError) as error:
            await self.drain(0)
            raise StartupError(
                f"cannot listen on {address}: {error}; free the port or choose another one (0 takes any free port)"
            ) from error
        self._servers.append(server)
        return bound

    def _process_handler(self) -> Any:
        # no (de)serializers: the codec works on bytes, whatever the transport
        methods = {"Process": grpc.stream_stream_rpc_method_handler(self._process)}
        return grpc.method_handlers_generic_handler(health.EXTERNAL_PROCESSOR, methods)

    def _health_handler(self) -> Any:
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "List": grpc.unary_unary_rpc_method_handler(self._list),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)

    async def _process(self, _requests: Any, context: Any) -> None:
        late: list[asyncio.Task[None]] = []

        def emit(actions: list[Action]) -> None:
            # Nothing else is written meanwhile: the proxy waits for these replies.
            late.append(asyncio.create_task(self._write(context, actions)))

        stream = Stream(self._decider, self._options.limits, on_error=self._on_error, emit=emit)
        self._streams.add(stream)
        try:
            while not stream.done and (data := await context.read()) is not grpc.aio.EOF:
                try:
                    actions = stream.feed(decode_request(data))
                except WireError as error:
                    actions = stream.fail(error)
                for action in actions:
                    await context.write(encode_response(action))
            await asyncio.gather(*late)
        except grpc.aio.BaseError:
            pass  # the proxy left while we wrote
        except Exception as error:  # noqa: BLE001 - a transport that fails under one request serves the next
            self._on_error(error)
        finally:
            # a cancelled handler comes by here, too
            stream.close()
            self._streams.discard(stream)

    async def _write(self, context: Any, actions: list[Action]) -> None:
        with contextlib.suppress(grpc.aio.BaseError):  # the proxy left while we wrote
            for action in actions:
                await context.write(encode_response(action))

    async def _check(self, request: bytes, context: Any) -> bytes:
        status = self._health.status(service := health.service_of(request))
        if status == health.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {service!r}")
        return health.status_reply(status)

    async def _list(self, _request: bytes, _context: Any) -> bytes:
        return self._health.list()

    async def _watch(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        service, told = health.service_of(request), -1
        while True:
            if (status := self._health.status(service)) != told:
                told = status
                yield health.status_reply(status)
            await asyncio.sleep(_WATCH_SECONDS)


@contextlib.asynccontextmanager
async def serving(server: ExtProcServer, drain_seconds: float = 0.0) -> AsyncIterator[ExtProcServer]:
    """Run a server for the length of a block."""
    await server.start()
    try:
        yield server
    finally:
        await server.drain(drain_seconds)


def _key_and_chain(tls: tuple[bytes, bytes] | TlsFiles | None) -> tuple[bytes, bytes] | None:
    """Read the files once: grpcio does not follow them."""
    if not isinstance(tls, TlsFiles):
        return tls
    try:
        return Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes()
    except OSError as error:
        raise StartupError(f"cannot use the TLS certificate: {error}; check key and certificate files") from error
