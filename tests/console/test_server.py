"""Admin pages over real HTTP: every route, wrong questions, and no prompt anywhere."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from tests.requestcontrol.rig import Rig

from pointsman.console.server import ConsoleServer, ConsoleSources
from pointsman.errors import StartupError

MARKER = "zebra-crossing-at-midnight"
SECRET = "Bearer not-for-anyone"  # a header that must not show

Get = Callable[..., Awaitable[tuple[int, str, bytes]]]


def sources(rig: Rig, *, ready: bool = True) -> ConsoleSources:
    """Sources as the picker wires them."""
    records = rig.metrics.records

    def decision(request_id: str) -> dict[str, Any] | None:
        record = records.get(request_id)
        return record.view() if record else None

    return ConsoleSources(
        metrics=lambda: rig.metrics.render,
        ready=lambda: ready,
        pods=lambda: [{"id": endpoint.id, "hostport": endpoint.hostport} for endpoint in rig.endpoints],
        config=rig.plan.effective,
        decisions=lambda count: [record.view() for record in records.last(count)],
        decision=decision,
    )


def visit(rig: Rig, main: Callable[[Get], Awaitable[None]], *, ready: bool = True) -> None:
    """Serve a rig's pages on loopback and run ``main`` with a client."""

    async def run() -> None:
        server = ConsoleServer(sources(rig, ready=ready), port=0)
        port = await server.start()
        try:
            async with aiohttp.ClientSession() as session:

                async def get(path: str, method: str = "GET") -> tuple[int, str, bytes]:
                    async with session.request(method, f"http://127.0.0.1:{port}{path}") as response:
                        return response.status, response.content_type, await response.read()

                await main(get)
        finally:
            await server.stop()

    asyncio.run(run())


def rig_with_decisions() -> Rig:
    rig = Rig()
    for i in range(30):
        exchange = rig.ask(f"{MARKER} {i}", headers={"x-request-id": f"r/{i}", "authorization": SECRET})
        exchange.response_headers(200, event_stream=True)
        exchange.response_body(f'data: {{"text": "{MARKER}"}}\n\n'.encode(), last=False)
        if i % 2:
            exchange.end("complete")
    return rig


def test_every_page_answers() -> None:
    async def main(get: Get) -> None:
        status, kind, page = await get("/metrics")
        assert (status, kind) == (200, "text/plain")
        assert b"epp_scheduling_duration_seconds_count 30.0" in page
        assert await get("/healthz") == (200, "text/plain", b"ok\n")
        assert await get("/readyz") == (200, "text/plain", b"ready\n")
        pods, config = await get("/pods"), await get("/config")
        assert pods[:2] == config[:2] == (200, "application/json")
        assert [pod["id"] for pod in json.loads(pods[2])["pods"]] == [f"default/pod-{i}" for i in range(8)]
        assert json.loads(config[2])["kind"] == "EndpointPickerConfig"
        status, _, body = await get("/decisions/r%2F7")
        record = json.loads(body)
        assert (status, record["request_id"], record["cause"], record["unit"]) == (200, "r/7", "complete", "ms")
        assert record["chosen"] in [row["endpoint"] for row in record["candidates"][: record["ties"]]]

    visit(rig_with_decisions(), main)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", range(29, 9, -1)),
        ("?last=1", range(29, 28, -1)),
        ("?last=5", range(29, 24, -1)),
        ("?last=00005", range(29, 24, -1)),
        ("?last=20000", range(29, -1, -1)),
        ("?other=1", range(29, 9, -1)),
    ],
)
def test_decisions_are_newest_first(query: str, names: range) -> None:
    async def main(get: Get) -> None:
        status, _, body = await get(f"/decisions{query}")
        assert status == 200
        assert [row["request_id"] for row in json.loads(body)["decisions"]] == [f"r/{i}" for i in names]

    visit(rig_with_decisions(), main)


def test_a_number_that_is_none_is_refused_in_words() -> None:
    wrong = ["0", "-1", "1.5", "x", "", "20001", "1e3", "%C2%B2", "%D9%A3", "+5", "%205", "5%20", "9" * 5000, "NaN"]

    async def main(get: Get) -> None:
        for text in wrong:
            status, kind, body = await get(f"/decisions?last={text}")
            assert (status, kind) == (400, "application/json"), text
            assert json.loads(body)["error"].startswith("last: expected a number from 1 to 20000, got "), text
            assert len(body) < 300

    visit(Rig(), main)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/nope", "GET", 404),
        ("/decisions/", "GET", 404),
        ("/decisions/unknown", "GET", 404),
        ("/decisions/..%2F..%2Fetc%2Fpasswd", "GET", 404),
        ("/pods", "POST", 405),
        ("/metrics", "DELETE", 405),
        ("/healthz", "HEAD", 200),
    ],
)
def test_wrong_questions(path: str, method: str, status: int) -> None:
    async def main(get: Get) -> None:
        assert (await get(path, method))[0] == status

    visit(Rig(), main)


def test_not_ready_is_503_and_alive_all_the_same() -> None:
    async def main(get: Get) -> None:
        assert await get("/readyz") == (503, "text/plain", b"not ready\n")
        assert (await get("/healthz"))[0] == 200

    visit(Rig(), main, ready=False)


def test_no_prompt_answer_or_header_is_shown_anywhere() -> None:
    pages = ["/decisions?last=20000", "/decisions/r%2F7", "/pods", "/metrics", "/config"]

    async def main(get: Get) -> None:
        for page in pages:
            status, _, body = await get(page)
            assert status == 200
            for secret in (MARKER, SECRET, "not-for-anyone", "authorization"):
                assert secret.encode() not in body, page

    visit(rig_with_decisions(), main)


def test_a_port_that_is_taken_says_what_to_do() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = ConsoleServer(sources(Rig()), port=taken.getsockname()[1])
            with pytest.raises(StartupError, match=r"admin port 127\.0\.0\.1:\d+ cannot be bound: .+; choose another"):
                await server.start()
            await server.stop()

    asyncio.run(main())


def test_stopping_before_starting_is_nothing() -> None:
    asyncio.run(ConsoleServer(sources(Rig())).stop())
