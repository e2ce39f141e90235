"""Open-loop load against a real server: good answers, errors, cut streams, silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pointsman.demo.load import Result, Shot, fire, get_json, get_text

HEAD = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":38,"completion_tokens":24,"prompt_tokens_details":'
    b'{"cached_tokens":32}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
PATIENCE = 15.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def stream(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    return response


async def good(request: web.Request) -> web.StreamResponse:
    return await stream(request, HEAD, USAGE[:40], USAGE[40:], DONE)


async def undone(request: web.Request) -> web.StreamResponse:
    return await stream(request, HEAD, USAGE)


async def cut(request: web.Request) -> web.StreamResponse:
    response = await stream(request, HEAD)
    assert request.transport is not None
    request.transport.close()
    return response


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "busy"}, status=503)


def serve(handler: Handler, main: Callable[[str], Awaitable[None]]) -> None:
    """Run ``main`` with the address of a server on loopback that answers with ``handler``."""

    async def run() -> None:
        app = web.Application()
        app.router.add_route("*", "/v1/chat/completions", handler)
        async with TestServer(app) as server:
            await main(str(server.make_url("/v1/chat/completions")))

    asyncio.run(run())


def shoot(handler: Handler, count: int = 1) -> list[Result]:
    box: list[Result] = []

    async def main(url: str) -> None:
        box.extend(await fire(url, [Shot(0.0, b"{}")] * count, PATIENCE))

    serve(handler, main)
    return box


def test_a_good_answer_has_its_times_and_counts() -> None:
    (result,) = shoot(good)
    assert (result.ok, result.status, result.error) == (True, 200, None)
    assert (result.prompt_tokens, result.output_tokens, result.cached_tokens) == (38, 24, 32)
    assert result.ttft is not None
    assert result.total is not None
    assert 0 < result.ttft <= result.total
    assert result.ended_at >= result.total


@pytest.mark.parametrize(
    ("handler", "status", "error", "first_seen"),
    [
        (refuse, 503, None, False),
        (undone, 200, "the stream ended before [DONE]", True),
        (cut, 200, "ClientPayloadError", True),
        (hang_up, 0, "ServerDisconnectedError", False),
    ],
)
def test_what_went_wrong_is_told(handler: Handler, status: int, error: str | None, first_seen: bool) -> None:
    (result,) = shoot(handler)
    assert (result.ok, result.status, result.ttft is not None) == (False, status, first_seen)
    assert (result.error or "").startswith(error or "")
    assert (result.error is None) is (error is None)
    assert result.total is not None


def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    async def main(url: str) -> None:
        (result,) = await fire(url, [Shot(0.0, b"{}")], 0.2)
        assert (result.ok, result.status, result.error, result.ttft) == (False, 0, "timeout", None)
        silence.set()

    silence = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await silence.wait()
        return web.Response()

    serve(silent, main)


def test_nobody_there_is_an_error_and_no_exception() -> None:
    async def main(url: str) -> None:
        addresses.append(url)

    addresses: list[str] = []
    serve(good, main)  # has ended when this returns: its port is free again
    (result,) = asyncio.run(fire(addresses[0], [Shot(0.0, b"{}")], PATIENCE))
    assert (result.ok, result.status) == (False, 0)
    assert result.error is not None
    assert result.error.startswith("ClientConnectorError")


def test_requests_do_not_wait_for_each_other_and_results_keep_their_order() -> None:
    waiting: list[bytes] = []
    everybody = asyncio.Event()

    async def crowd(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        assert request.headers["content-type"] == "application/json"
        waiting.append(body)
        if len(waiting) == 20:
            everybody.set()
        await everybody.wait()
        usage = b'data: {"usage":{"prompt_tokens":%s}}\n\n' % body
        return await stream(request, HEAD, usage, DONE)

    async def main(url: str) -> None:
        ticks: list[int] = []
        shots = [Shot(i / 1000, b"%d" % i) for i in range(20)]
        results = await fire(url, shots, PATIENCE, ticks.append)
        assert [result.prompt_tokens for result in results] == list(range(20))
        assert all(result.ok for result in results)
        assert ticks == [1] * 20

    serve(crowd, main)


def test_times_count_from_the_appointed_moment() -> None:
    async def main(url: str) -> None:
        early, late = await fire(url, [Shot(-5.0, b"{}"), Shot(0.1, b"{}")], PATIENCE)
        assert early.ttft is not None
        assert early.ttft >= 5.0
        assert late.ended_at >= 0.1
        assert late.total is not None
        assert late.total == pytest.approx(late.ended_at - 0.1, abs=0.05)

    serve(good, main)


def test_no_shots_are_no_results() -> None:
    assert asyncio.run(fire("http://127.0.0.1:9/", [], PATIENCE)) == []


def test_pages_are_fetched_as_text_and_as_json() -> None:
    async def main(url: str) -> None:
        assert await get_json(url) == {"error": "busy"}
        assert await get_text(url) == '{"error": "busy"}'

    serve(refuse, main)
