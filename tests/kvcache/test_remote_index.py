"""Questions over real HTTP, to a real indexer and to servers that do all kinds of things instead of answering."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from tests.builders import make_endpoints, make_request
from tests.console.indexer_rig import CREATED, LOCAL, TOKENS, Client, serve, until
from tests.requestcontrol.tokenizing.tiny import CHAT, tiny_folder

from pointsman.app.indexer import Indexer
from pointsman.app.indexer_tokens import token_options
from pointsman.framework.kv import Held
from pointsman.framework.observer import Observer
from pointsman.kvcache.remote_index import CONNECTIONS, FAILED, LATE, NO_TOKENS, IndexerClient, RemoteIndex
from pointsman.kvcache.remote_wire import MAX_ANSWER_BYTES

PODS = make_endpoints(3)
KNOWN = make_request(b"p", token_ids=(*TOKENS, 1))
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
UNKNOWN = make_request(b"p", path=CHAT)


class Counting(Observer):
    """Counts what is done without."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def degraded(self, kind: str) -> None:
        self.kinds[kind] += 1


class Rig:
    """A client whose clock a test sets."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self.observer, self.now = Counting(), 0.0
        self.client = IndexerClient(url, timeout, self.observer, lambda: self.now)

    async def ask(self, request: Any = KNOWN) -> Any:
        return await self.client.ask(request, BODY, PODS)


def over(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    work: Callable[[Rig], Coroutine[Any, Any, None]],
    timeout: float = 10.0,
) -> None:
    """Run ``work`` with a client of a server that does ``handler``."""

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/base/query", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, LOCAL, 0).start()
        rig = Rig(f"http://{LOCAL}:{runner.addresses[0][1]}/base/", timeout)
        try:
            await work(rig)
        finally:
            await rig.client.close()
            await runner.cleanup()

    asyncio.run(main())


def answering(status: int, body: bytes = b"") -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    return handler


def test_an_indexer_is_asked_about_ids_and_about_prompts() -> None:
    async def work(service: Indexer, client: Client) -> None:
        await client.post("/events?pod=pod-1&model=m", CREATED)
        rig = Rig(f"http://{LOCAL}:{service.port}")
        found = await rig.ask()
        assert found.held == {PODS[1].id: Held(64, 16, 0.9)}
        assert found.token_ids is None
        found = await rig.ask(UNKNOWN)
        assert found.held == {PODS[1].id: Held(0, 16, 0.9)}
        assert found.token_ids[:2] == (1, 1490)
        assert (rig.client.counts["answered"], rig.observer.kinds) == (2, {})
        await rig.client.close()

    serve(work, tokens=token_options(tiny_folder(), None, 30_000))


def test_one_without_a_tokenizer_is_not_asked_about_prompts_for_a_minute() -> None:
    async def work(service: Indexer, client: Client) -> None:
        rig = Rig(f"http://{LOCAL}:{service.port}")
        assert await rig.ask(UNKNOWN) is None
        assert rig.client.why_not(UNKNOWN) == NO_TOKENS
        assert await rig.ask(UNKNOWN) is None
        assert (await rig.ask()).held == {}
        assert rig.client.counts == {"asked": 2, "answered": 1, NO_TOKENS: 2}
        assert rig.observer.kinds == {NO_TOKENS: 2}
        rig.now = 61.0
        assert rig.client.why_not(UNKNOWN) is None
        await rig.client.close()

    serve(work)


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (answering(500), FAILED),
        (answering(404), FAILED),
        (answering(302), FAILED),
        (answering(200, b"nonsense"), FAILED),
        (answering(200, b" " * (MAX_ANSWER_BYTES + 1)), FAILED),
        (answering(503), LATE),
    ],
)
def test_failures_open_the_breaker_and_a_probe_closes_it(handler: Any, kind: str) -> None:
    good = False

    async def either(request: web.Request) -> web.StreamResponse:
        return web.json_response({"pods": {}}) if good else await handler(request)

    async def work(rig: Rig) -> None:
        nonlocal good
        for attempt in range(5):
            rig.now = attempt / 10
            assert rig.client.why_not(KNOWN) is None
            assert await rig.ask() is None
        assert rig.client.why_not(KNOWN) == kind
        assert await rig.ask() is None
        assert rig.client.counts == {"asked": 5, kind: 6} == {"asked": 5, **rig.observer.kinds}
        rig.now = 1.5
        assert await rig.ask() is None  # the probe fails
        assert rig.client.why_not(KNOWN) == kind
        rig.now, good = 2.5, True
        assert await rig.ask() is not None
        assert await rig.ask() is not None
        assert rig.observer.kinds == {kind: 7}

    over(either, work)


@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_question_says_nothing_of_the_indexer(status: int) -> None:
    async def work(rig: Rig) -> None:
        for _ in range(8):
            assert await rig.ask() is None
        assert rig.client.why_not(KNOWN) is None
        assert rig.observer.kinds == {NO_TOKENS: 8}

    over(answering(status), work)


def test_nobody_there() -> None:
    async def main() -> None:
        rig = Rig("http://127.0.0.1:1")
        for attempt in range(6):
            rig.now = attempt / 10
            assert await rig.ask() is None
        assert rig.client.counts == {"asked": 5, FAILED: 6}
        await rig.client.close()

    asyncio.run(main())


def test_the_deadline_holds_for_head_and_body_and_only_so_many_wait() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(30)
        return response

    async def work(rig: Rig) -> None:
        many = asyncio.gather(*(rig.ask() for _ in range(CONNECTIONS + 3)))
        await asyncio.sleep(0)
        assert rig.client.why_not(KNOWN) == LATE
        assert set(await many) == {None}
        assert rig.client.counts == {"asked": CONNECTIONS, LATE: CONNECTIONS + 3}

    over(handler, work, timeout=0.3)


def test_a_late_answer_is_read_so_that_its_connection_can_be_used_again() -> None:
    go, peers = asyncio.Event(), []

    async def handler(request: web.Request) -> web.StreamResponse:
        peers.append(request.transport.get_extra_info("peername") if request.transport else None)
        await go.wait()
        return web.json_response({"pods": {}})

    async def work(rig: Rig) -> None:
        assert await rig.ask() is None
        assert len(rig.client._under_way) == 1
        leaving = asyncio.create_task(rig.ask())  # a client that does not wait for its decision
        await asyncio.sleep(0)
        leaving.cancel()
        assert await asyncio.gather(leaving, return_exceptions=True)
        assert rig.observer.kinds == {LATE: 1}
        go.set()
        await until(lambda: asyncio.sleep(0, not rig.client._under_way))
        rig.client._timeout = 10.0
        assert await rig.ask() is not None
        assert len(peers) >= 2
        assert peers[-1] in peers[:-1]

    over(handler, work, timeout=0.1)


def test_what_takes_for_ever_is_given_up() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def work(rig: Rig) -> None:
        assert await rig.ask() is None
        await until(lambda: asyncio.sleep(0, not rig.client._under_way))

    over(handler, work, timeout=0.05)


def test_what_needs_no_question_is_not_counted() -> None:
    rig = Rig("http://127.0.0.1:1")
    index = RemoteIndex([(rig.client, ["a"])])
    assert index.passes(make_request(b""))
    assert index.passes(make_request(b"p", token_ids=()))
    assert not index.passes(KNOWN)
    assert asyncio.run(rig.ask(make_request(b"p", path="/v1/embeddings"))) is None
    assert rig.observer.kinds == {NO_TOKENS: 1}


def test_several_indexers() -> None:
    async def work(rig: Rig) -> None:
        away = Rig("http://127.0.0.1:1")
        index = RemoteIndex([(rig.client, ["a", "b"]), (away.client, ["c"])])
        for attempt in range(5):
            away.now = attempt / 10
            assert list(await index.ask(KNOWN, BODY, PODS)) == ["a", "b"]
        assert not index.passes(KNOWN)  # one of them still answers
        assert away.observer.kinds == {FAILED: 5}
        alone = RemoteIndex([(away.client, ["c"])])
        assert alone.passes(KNOWN)
        assert away.observer.kinds == {FAILED: 6}
        assert await alone.ask(KNOWN, BODY, PODS) == {}
        await away.client.close()

    over(answering(200, b'{"pods": {}}'), work)
