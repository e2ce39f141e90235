from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from pointsman.datalayer.pod_facts import MAX_ANSWER_BYTES, PodFacts

SOURCES = {"0": {"endpoint": "tcp://*:5557"}}


async def _read(pages: dict[str, bytes]) -> Any:
    """What is read of a server with these pages."""

    async def page(request: web.Request) -> web.Response:
        body = pages.get(request.path)
        return web.Response(body=body, status=200 if body is not None else 404)

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    reader = PodFacts()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return await reader.event_sources(f"127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await reader.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("pages", "found"),
    [
        ({}, None),
        ({"/kv_event_sources": b'{"0": {"endpoint": "tcp://*:5557"}}'}, SOURCES),
        ({"/kv_event_sources": b"{}", "/server_info": b'{"kv_events": null}'}, {"kv_events": None}),
        ({"/kv_event_sources": b"\xff{", "/server_info": b"<html>"}, None),
        ({"/kv_event_sources": b"[" + b"1," * MAX_ANSWER_BYTES + b"1]"}, None),
    ],
)
def test_the_first_answer_that_says_something(pages: dict[str, bytes], found: Any) -> None:
    assert asyncio.run(_read(pages)) == found


def test_a_pod_that_is_away() -> None:
    async def main() -> None:
        reader = PodFacts()
        try:
            with pytest.raises(OSError):
                await reader.event_sources("127.0.0.1:1")
        finally:
            await reader.close()

    asyncio.run(main())
