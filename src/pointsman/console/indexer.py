"""HTTP of the index as a service of its own: queries, pushed events, what is known, metrics, its own description.

Bound to loopback by default: there is no authentication. Token ids and salts of queries appear nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pointsman.console.indexer_pages import OPENAPI, PAGE
from pointsman.console.site import Site
from pointsman.errors import BadRequestError, BodyTooLargeError, PointsmanError
from pointsman.kvcache.query import MAX_BODY_BYTES, MAX_NAME

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class IndexerSources(msgspec.Struct, frozen=True):
    """What is behind the routes; each is called per request. Bad input raises an error that has an HTTP status."""

    query: Callable[[bytes], Awaitable[dict[str, Any]]]
    push: Callable[[str, str, bytes], dict[str, Any]]
    """Follow events of (pod, model, body)."""
    pods: Callable[[], list[Any]]
    stats: Callable[[], dict[str, Any]]
    metrics: Callable[[], bytes]


class IndexerServer:
    """Serves an index until stopped."""

    def __init__(
        self, sources: IndexerSources, host: str = "127.0.0.1", port: int = 9095, *, max_body: int = MAX_BODY_BYTES
    ) -> None:
        self._sources, self._max_body = sources, max_body
        self._site = Site(host, port, "--port")

    async def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
            StartupError: if the port cannot be had.
        """
        app = web.Application(client_max_size=self._max_body, middlewares=[_as_json])
        app.add_routes(
            [
                web.post("/query", self._query),
                web.post("/events", self._events),
                web.get("/pods", self._pods),
                web.get("/stats", self._stats),
                web.get("/metrics", self._metrics),
                web.get("/healthz", _healthz),
                web.get("/openapi.json", _openapi),
                web.get("/", _page),
            ]
        )
        return await self._site.start(app)

    async def stop(self) -> None:
        await self._site.stop()

    async def _query(self, request: web.Request) -> web.Response:
        return _json(await self._sources.query(await request.read()))

    async def _events(self, request: web.Request) -> web.Response:
        pod, model = request.query.get("pod", ""), request.query.get("model", "")
        if not 1 <= len(pod) <= MAX_NAME:
            return _refusal(400, "name the pod: /events?pod=NAME", "pod")
        if len(model) > MAX_NAME:
            return _refusal(400, f"longer than {MAX_NAME} characters", "model")
        return _json(self._sources.push(pod, model, await request.read()))

    async def _pods(self, _: web.Request) -> web.Response:
        return _json({"pods": self._sources.pods()})

    async def _stats(self, _: web.Request) -> web.Response:
        return _json(self._sources.stats())

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._sources.metrics(), headers=headers)


@web.middleware
async def _as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal is JSON with the field that is wrong."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return _refusal(BodyTooLargeError.http_status, "the body is over the limit")
    except web.HTTPException as error:
        return _refusal(error.status, error.reason, headers={"Allow": error.headers.get("Allow", "")})
    except BadRequestError as error:
        return _refusal(error.http_status, str(error), getattr(error, "field", ""))
    except PointsmanError as error:
        return _refusal(error.http_status, str(error))
    except (web.RequestPayloadError, HttpProcessingError) as error:
        return _refusal(400, f"the body cannot be read: {error}")


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _openapi(_: web.Request) -> web.Response:
    return _json(OPENAPI)


async def _page(_: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


def _refusal(status: int, message: str, field: str = "", headers: dict[str, str] | None = None) -> web.Response:
    response = _json({"error": message, "field": field}, status)
    response.headers.update({name: value for name, value in (headers or {}).items() if value})
    return response


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(data), content_type="application/json")
