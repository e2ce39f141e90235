"""Admin HTTP of the picker: metrics, health, what is known of the pods, and why requests went where they went.

Bound to loopback by default. No prompt text and no headers ever appear here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from pointsman.console.site import Site

MAX_DECISIONS = 20_000
MAX_DIGITS = 5


class ConsoleSources(msgspec.Struct, frozen=True):
    """Where the pages get their data; each is called per request."""

    metrics: Callable[[], Callable[[], bytes]]
    """Gathers, on the event loop; what it returns makes the page, in a thread."""
    ready: Callable[[], bool]
    pods: Callable[[], list[dict[str, Any]]]
    config: Callable[[], dict[str, Any]]
    decisions: Callable[[int], list[dict[str, Any]]]
    decision: Callable[[str], dict[str, Any] | None]
    latency: Callable[[], dict[str, Any]] = dict
    """What the latency model has learnt; empty when it does not learn."""


class ConsoleServer:
    """Serves the pages until stopped."""

    def __init__(self, sources: ConsoleSources, host: str = "127.0.0.1", port: int = 9090) -> None:
        self._sources = sources
        self._site = Site(host, port, "--admin-port")

    async def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
            StartupError: if the port cannot be had.
        """
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/pods", self._pods),
                web.get("/config", self._config),
                web.get("/latency", self._latency),
                web.get("/decisions", self._decisions),
                web.get("/decisions/{id}", self._decision),
            ]
        )
        return await self._site.start(app)

    async def stop(self) -> None:
        await self._site.stop()

    async def _metrics(self, _: web.Request) -> web.Response:
        page = await asyncio.get_running_loop().run_in_executor(None, self._sources.metrics())
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._sources.ready()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n")

    async def _pods(self, _: web.Request) -> web.Response:
        return _json({"pods": self._sources.pods()})

    async def _config(self, _: web.Request) -> web.Response:
        return _json(self._sources.config())

    async def _latency(self, _: web.Request) -> web.Response:
        return _json(self._sources.latency())

    async def _decisions(self, request: web.Request) -> web.Response:
        text = request.query.get("last", "20")
        if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS or not 1 <= int(text) <= MAX_DECISIONS:
            return _json({"error": f"last: expected a number from 1 to {MAX_DECISIONS}, got {text[:40]!r}"}, 400)
        return _json({"decisions": self._sources.decisions(int(text))})

    async def _decision(self, request: web.Request) -> web.Response:
        record = self._sources.decision(request.match_info["id"])
        if record is None:
            return _json({"error": "no such request among those remembered"}, 404)
        return _json(record)


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(data), content_type="application/json")
