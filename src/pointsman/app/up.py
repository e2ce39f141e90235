"""``pointsman up``: Envoy and the picker side by side, supervised, in front of given model servers.

The picker is a process of its own, so that its death costs nobody a request: Envoy goes on by round-robin (fail open)
and the picker is started again. Endpoint changes reach Envoy from here, so they do not wait for the picker either.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.app.discovery import Discovery, EndpointOptions
from pointsman.app.processes import PointsmanChild
from pointsman.app.recording import RecordOptions
from pointsman.app.transports import Transport
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.envoy.bootstrap import BootstrapOptions
from pointsman.envoy.process import EnvoyProcess
from pointsman.errors import ConfigError
from pointsman.observability.logging import logger

ENVOY_CHECK_S = 0.2


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the pair runs. Ports of 0 are chosen; times in seconds."""

    endpoints: EndpointOptions
    config: str = "default"
    host: str = "127.0.0.1"
    port: int = 8081
    round_robin_port: int | None = None
    picker_port: int = 0
    transport: Transport = "native"
    admin_port: int = 9090
    envoy_admin_port: int = 0
    envoy_path: str | None = None
    concurrency: int = 2
    max_body_bytes: int = 32 * 1024 * 1024
    message_timeout_ms: int = 200
    fail_open: bool = True
    scrape_period: float = 0.2
    drain: float = 30.0
    time_scale: float = 1.0
    log_level: str = "info"
    kv_snapshot: Path | None = None
    records: RecordOptions | None = None
    seed: int | None = None


class Up:
    """Starts the pair, keeps it running, ends it in order."""

    def __init__(self, options: UpOptions) -> None:
        # A restarted picker must come back on the port that Envoy knows, so the port is fixed here.
        self.options = msgspec.structs.replace(options, picker_port=options.picker_port or free_port())
        self._log = logger("up")
        self._workdir = Path(tempfile.mkdtemp(prefix="pointsman-"))
        self._ready = self._workdir / "picker-ports.json"
        self.picker = PointsmanChild("picker", self._picker_arguments())
        self.envoy = EnvoyProcess(
            BootstrapOptions(
                host=options.host,
                port=options.port,
                round_robin_port=options.round_robin_port,
                admin_port=options.envoy_admin_port,
                picker_port=self.options.picker_port,
                fail_open=options.fail_open,
                message_timeout_ms=options.message_timeout_ms,
                max_body_bytes=options.max_body_bytes,
            ),
            self._workdir / "envoy",
            envoy_path=options.envoy_path,
            concurrency=options.concurrency,
        )
        self._endpoints: list[Endpoint] = []
        self._discovery = Discovery(options.endpoints, self._use_endpoints, self._refuse_endpoints)
        self._keeper: asyncio.Task[None] | None = None
        self.admin_port = options.admin_port

    def _picker_arguments(self) -> list[str]:
        options = self.options
        arguments = ["epp", *options.endpoints.flags(), "--config", options.config]
        arguments += ["--transport", options.transport, "--port", str(options.picker_port)]
        arguments += ["--admin-port", str(options.admin_port)]
        arguments += ["--ready-file", str(self._ready), "--max-body-bytes", str(options.max_body_bytes)]
        arguments += ["--scrape-period", str(options.scrape_period), "--drain", str(options.drain)]
        arguments += ["--time-scale", str(options.time_scale), "--log-level", options.log_level]
        if options.kv_snapshot is not None:
            arguments += ["--kv-snapshot", str(options.kv_snapshot)]
        if options.records is not None:
            arguments += options.records.flags()
        return arguments + (["--seed", str(options.seed)] if options.seed is not None else [])

    async def start(self) -> None:
        """Start the picker, then Envoy.

        Raises:
            ConfigError: if endpoints or configuration cannot be used.
            StartupError: if one of the two does not come up.
        """
        try:
            await self._discovery.start()
            await self.picker.start(self._ready)
            self.refresh_ports()
            await self.envoy.start(self._endpoints)
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep_envoy(), name="keep-envoy")

    def refresh_ports(self) -> None:
        """Read which admin port the picker bound; one that was started again may have chosen another."""
        self.admin_port = msgspec.json.decode(self._ready.read_bytes())["admin"]

    async def stop(self) -> None:
        """End in order: Envoy lets requests finish within the drain time, then the picker ends."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._discovery.stop()
        if self.envoy.running:
            await self.envoy.stop(self.options.drain)
        await self.picker.stop(min(self.options.drain, 5.0))
        shutil.rmtree(self._workdir, ignore_errors=True)

    async def _keep_envoy(self) -> None:
        while True:
            code = await self.envoy.wait()
            self._log.error("Envoy ended, starting it again", code=code)
            await asyncio.sleep(ENVOY_CHECK_S)
            try:
                await self.envoy.start(self._endpoints)
            except Exception as error:  # noqa: BLE001 - keep trying until told to stop
                self._log.error("Envoy did not start", error=str(error))
                await asyncio.sleep(2.0)

    def _use_endpoints(self, specs: Sequence[EndpointSpec]) -> None:
        self._endpoints = [Endpoint(id=s.id, address=s.address, port=s.port, labels=s.labels) for s in specs]
        if self.envoy.running:
            self.envoy.write_endpoints(self._endpoints)
            self._log.info("endpoints", total=len(specs))

    def _refuse_endpoints(self, error: ConfigError) -> None:
        self._log.error("endpoints refused, the old ones stay", error=str(error))


def free_port() -> int:
    """A port that was free a moment ago on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
