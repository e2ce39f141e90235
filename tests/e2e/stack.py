"""A whole stack for end-to-end tests: simulated pods as processes, a real Envoy, a real picker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from pointsman.app.discovery import EndpointOptions
from pointsman.app.processes import PointsmanChild
from pointsman.app.up import Up, UpOptions
from pointsman.observability.logging import setup

MODEL = "sim-model"


class Pod:
    """One simulated pod in a process of its own, so that it can be killed."""

    def __init__(self, folder: Path, name: str, *flags: str) -> None:
        self.name = name
        self._ready = folder / f"{name}.yaml"
        arguments = [
            "sim",
            "--pods",
            "1",
            "--port",
            "0",
            "--model",
            MODEL,
            "--endpoints-file",
            str(self._ready),
            *flags,
        ]
        self.child = PointsmanChild(name, arguments, log=folder / f"{name}.log")

    async def start(self) -> None:
        await self.child.start(self._ready)

    @property
    def entry(self) -> dict[str, Any]:
        """Its line of an endpoints file, under its own name."""
        entry: dict[str, Any] = yaml.safe_load(self._ready.read_text())["endpoints"][0]
        return {**entry, "name": self.name}

    @property
    def hostport(self) -> str:
        return f"{self.entry['address']}:{self.entry['port']}"

    async def kill(self) -> None:
        """SIGKILL, and no restart."""
        pid = self.child.pid
        if self.child._task is not None:
            self.child._task.cancel()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        assert self.child._process is not None
        await self.child._process.wait()


class Stack:
    """Pods, Envoy and picker, and a client."""

    def __init__(self, folder: Path, pods: Sequence[Pod], **options: Any) -> None:
        self.pods = list(pods)
        self.file = folder / "endpoints.yaml"
        self._options = options
        self.up: Up | None = None
        self._session: aiohttp.ClientSession | None = None

    def write_endpoints(self, pods: Sequence[Pod]) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(yaml.safe_dump({"endpoints": [pod.entry for pod in pods]}))
        part.replace(self.file)

    async def start(self) -> None:
        setup("error")
        await asyncio.gather(*(pod.start() for pod in self.pods))
        self.write_endpoints(self.pods)
        defaults: dict[str, Any] = {
            "endpoints": EndpointOptions(file=self.file),
            "port": 0,
            "admin_port": 0,
            "round_robin_port": 0,
            "log_level": "error",
            "message_timeout_ms": 3000,  # a busy machine must not turn a pick into a round-robin here
            "drain": 2.0,
            "concurrency": 1,
        }
        self.up = Up(UpOptions(**{**defaults, **self._options}))
        await self.up.start()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self.up is not None:
            await self.up.stop()
        await asyncio.gather(*(pod.child.stop(1.0) for pod in self.pods))

    @property
    def url(self) -> str:
        assert self.up is not None
        return f"http://127.0.0.1:{self.up.envoy.port}"

    async def post(
        self, body: bytes | dict[str, Any], path: str = "/v1/chat/completions"
    ) -> tuple[int, dict[str, str], bytes]:
        """POST through Envoy; a connection that breaks counts as status 0."""
        assert self._session is not None
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(self.url + path, data=data, headers=headers) as response:
                return response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read()
        except (aiohttp.ClientError, OSError):
            return 0, {}, b""

    async def get(self, path: str) -> tuple[int, bytes]:
        """GET through Envoy."""
        assert self._session is not None
        async with self._session.get(self.url + path) as response:
            return response.status, await response.read()

    async def admin(self, path: str) -> Any:
        """GET from the picker's admin pages."""
        assert self.up is not None
        assert self._session is not None
        async with self._session.get(f"http://127.0.0.1:{self.up.admin_port}{path}") as response:
            body = await response.read()
            return msgspec.json.decode(body) if response.content_type == "application/json" else body.decode()

    async def metric(self, name: str) -> float:
        """Sum of a metric of the picker over its labels."""
        page: str = await self.admin("/metrics")
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith((name + " ", name + "{")))
        return sum(float(value) for _, value in lines)


def chat(text: str, *, tokens: int = 4, model: str = MODEL, **more: Any) -> dict[str, Any]:
    """A chat body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}


@asynccontextmanager
async def running(folder: Path, pods: int = 2, flags: Sequence[str] = (), **options: Any) -> AsyncIterator[Stack]:
    """A stack of ``pods`` pods that is stopped whatever happens."""
    stack = Stack(folder, [Pod(folder, f"pod-{i}", *flags) for i in range(pods)], **options)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


async def until(condition: Any, seconds: float = 15.0) -> None:
    """Wait until an async condition holds; fails after ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.05)
