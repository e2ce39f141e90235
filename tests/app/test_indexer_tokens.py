"""Prompts asked of a running indexer: tokens as on the request path, refusals, and engines that are slow or away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.console.indexer_rig import LOCAL, Client, serve
from tests.console.test_indexer import BODIES, VALUES
from tests.requestcontrol.rig import Rig
from tests.requestcontrol.tokenizing.tiny import CHAT, TEXT, tiny_folder

from pointsman.api.request import RequestHead
from pointsman.app.discovery import EndpointOptions
from pointsman.app.indexer import Indexer, IndexerOptions
from pointsman.app.indexer_tokens import token_options
from pointsman.errors import ConfigError
from pointsman.plugins.producers.token_producer import LocalParams, TokenProducerParams
from pointsman.requestcontrol.exchange import Pending, is_pending
from pointsman.requestcontrol.tokenizing.assemble import make_tokenizing

LONG = "The quick brown fox jumps over the lazy dog. " * 20
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": LONG}
PARTS = {"role": "user", "content": [{"type": "text", "text": LONG}]}
OPEN_TURN = {"role": "assistant", "content": "Yes"}
PROMPTS: list[tuple[str, dict[str, Any]]] = [
    (TEXT, {"prompt": LONG}),
    (TEXT, {"prompt": LONG, "add_special_tokens": False, "temperature": 0.5, "stream": True}),
    (TEXT, {"prompt": list(range(200))}),
    (CHAT, {"messages": [USER], "max_tokens": 7}),
    (CHAT, {"messages": [{"role": "system", "content": "Be kind."}, USER], "tools": [TOOL]}),
    (CHAT, {"messages": [PARTS, OPEN_TURN], "add_generation_prompt": False, "continue_final_message": True}),
    (CHAT, {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}}),
]


def local() -> TokenProducerParams | None:
    return token_options(tiny_folder(), None, 30_000)


async def on_the_request_path(path: str, body: dict[str, Any]) -> tuple[int, ...]:
    """Token ids that a picker decides by."""
    rig = Rig()
    params = TokenProducerParams(local=LocalParams(path=str(tiny_folder())), budget_ms=30_000)
    service = rig.director.tokenizing = make_tokenizing(params)
    head = RequestHead({":method": "POST", ":path": path})
    found = rig.director.decide(head, json.dumps(body).encode(), received=time.perf_counter())
    if is_pending(found):
        done: asyncio.Future[Pending] = asyncio.get_running_loop().create_future()
        found.add_done_callback(done.set_result)
        found = (await done).result()
    await service.close()
    ids = found.decision.request.token_ids  # type: ignore[union-attr]
    assert ids is not None
    return tuple(ids)


@pytest.mark.parametrize(("path", "fields"), PROMPTS)
def test_tokens_and_matches_are_those_of_the_request_path(path: str, fields: dict[str, Any]) -> None:
    body = {"model": "m", **fields}

    async def work(service: Indexer, client: Client) -> None:
        ids = await on_the_request_path(path, body)
        half = ids[: len(ids) // 32 * 16]
        event = {"type": "block_created", "block_hashes": list(range(len(half) // 16)), "token_ids": list(half)}
        await client.post("/events?pod=a&model=m", event | {"block_size": 16})
        status, found = await client.post("/query", {**body, "pods": ["a"], "return_token_ids": True})
        assert status == 200, found
        assert (tuple(found.pop("token_ids")), found["prompt_tokens"]) == (ids, len(ids))
        assert found["pods"]["a"]["matched_tokens"] == len(half) > 0
        assert (await client.post("/query", {"model": "m", "token_ids": list(ids), "pods": ["a"]})) == (200, found)
        _, other = await client.post("/query", {**body, "cache_salt": "s"})
        assert other["pods"]["a"]["matched_tokens"] == 0

    serve(work, tokens=local())


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"model": "m", "prompt": ""}, 400, "prompt"),
        ({"model": "m", "prompt": []}, 400, "prompt"),
        ({"model": "m", "prompt": [-1]}, 400, "prompt"),
        ({"model": "m", "prompt": 7}, 400, "prompt"),
        ({"model": "m", "prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": "a"}, 400, "model"),
        ({"model": "", "prompt": "a"}, 400, "model"),
        ({"model": 7, "messages": []}, 400, "model"),
        ({"model": "m", "messages": []}, 400, "messages"),
        ({"model": "m", "messages": "a"}, 400, "messages"),
        ({"model": "m", "messages": [{"role": 1}]}, 400, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
        ({"model": "m", "messages": [{"role": "user", "content": "a"}], "prompt": "a"}, 400, "prompt"),
        ({"model": "m", "prompt": "a", "token_ids": [1]}, 400, "token_ids"),
        ({"model": "m", "prompt": "a", "prompt_hash": None}, 400, "prompt_hash"),
        ({"model": "m", "prompt": "a", "pods": [""]}, 400, "pods[0]"),
        ({"model": "m", "prompt": "a", "block_size": 0}, 400, "block_size"),
        ({"model": "m", "prompt": "a", "salt": "a", "cache_salt": "b"}, 400, "salt"),
        ({"model": "m", "prompt": "a", "truncate_prompt_tokens": 4}, 400, "prompt"),
    ],
)
def test_refusals_name_the_field(body: dict[str, Any], status: int, field: str) -> None:
    async def work(_: Indexer, client: Client) -> None:
        found = await client.post("/query", body)
        assert (found[0], found[1]["field"]) == (status, field), found

    serve(work, tokens=local())


def test_without_a_tokenizer_the_flags_are_named_and_token_ids_do() -> None:
    async def work(service: Indexer, client: Client) -> None:
        status, found = await client.post("/query", {"model": "m", "prompt": "hello"})
        assert (status, found["field"]) == (422, "prompt")
        assert "--tokenizer" in found["error"]
        assert "--tokenize-url" in found["error"]
        status, found = await client.post("/query", {"model": "m", "prompt": [1, 2, 3]})
        assert (status, found) == (200, {"pods": {}, "prompt_tokens": 3})
        assert service.counts == {"bad-query": 1, "query": 1}

    serve(work)


def engine(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], work: Callable[[str], None]) -> None:
    """Run a server for the ways that ask one, on a loop of its own."""

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, LOCAL, 0).start()
        try:
            await asyncio.to_thread(work, f"http://{LOCAL}:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()

    asyncio.run(main())


def test_an_engine_is_asked_and_does_not_see_the_fields_of_a_query() -> None:
    seen: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, await request.json()))
        return web.json_response({"token_ids": [5, 6, 7]})

    async def query(_: Indexer, client: Client) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "seed": 3}
        status, found = await client.post("/query", {**body, "pods": ["x"], "adapter": "l", "return_token_ids": True})
        assert (status, found["token_ids"]) == (200, [5, 6, 7])
        assert seen == [("/v1/chat/completions/render", body)]

    engine(answer, lambda url: serve(query, tokens=token_options(None, url)))


def test_a_pod_of_the_pool_is_asked() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/tokenize":
            return web.json_response({"tokens": [5, 6]})
        return web.Response(status=404)

    async def query(_: Indexer, client: Client) -> None:
        assert (await client.post("/query", {"model": "m", "prompt": "a"}))[1]["prompt_tokens"] == 2

    def work(url: str) -> None:
        serve(query, tokens=token_options(None, "pool"), endpoints=EndpointOptions(urls=(url,)))

    engine(answer, work)


@pytest.mark.parametrize(
    ("slow", "status", "expected", "why"),
    [(True, 200, 503, "budget"), (False, 500, 503, "answered 500"), (False, 400, 400, "answered 400")],
)
def test_engines_that_do_not_tell(slow: bool, status: int, expected: int, why: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(30 if slow else 0)
        return web.Response(status=status)

    async def query(service: Indexer, client: Client) -> None:
        found = await client.post("/query", {"model": "m", "prompt": "a"})
        assert found[0] == expected
        assert why in found[1]["error"]
        assert service.counts["no-tokens"] == (expected == 503)

    engine(answer, lambda url: serve(query, tokens=token_options(None, url, 200)))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "pool"])
def test_nobody_to_ask_is_503_with_the_reason(url: str) -> None:
    async def query(_: Indexer, client: Client) -> None:
        status, found = await client.post("/query", {"model": "m", "prompt": "a"})
        assert (status, "engine: " in found["error"]) == (503, True)

    serve(query, tokens=token_options(None, url))


PROMPT_FIELDS = st.sampled_from(["model", "prompt", "messages", "tools", "pods", "salt", "chat_template_kwargs"])
TURNS = st.fixed_dictionaries({"role": VALUES, "content": VALUES}) | VALUES
PROMPT_BODIES = BODIES | st.builds(
    lambda base, more: json.dumps({**base, **more}).encode(),
    st.fixed_dictionaries({"model": st.just("m"), "prompt": VALUES})
    | st.fixed_dictionaries({"model": st.just("m"), "messages": st.lists(TURNS, max_size=3) | VALUES}),
    st.dictionaries(PROMPT_FIELDS, VALUES, max_size=3),
)


def test_any_body_is_answered_or_refused() -> None:
    async def work(service: Indexer, client: Client) -> None:
        loop = asyncio.get_running_loop()

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(PROMPT_BODIES)
        def throw(body: bytes) -> None:
            asked = asyncio.run_coroutine_threadsafe(client.send("/query", body), loop)
            status, answer = asked.result(30)
            assert status in {200, 400}, (body, answer)
            assert status == 200 or set(answer) == {"error", "field"}

        await asyncio.to_thread(throw)
        status, _ = await client.post("/query", {"model": "m", "prompt": "still here"})
        assert status == 200

    serve(work, tokens=local())


def test_flags_that_cannot_be_used(tmp_path: Path) -> None:
    assert token_options(None, None) is None
    with pytest.raises(ConfigError, match=r"--tokenizer: .*does not exist"):
        token_options(tmp_path / "x", None)
    with pytest.raises(ConfigError, match=r"--tokenizer: .*holds no tokenizer\.json"):
        token_options(tmp_path, None)
    with pytest.raises(ConfigError, match="--tokenize-url: 'ftp://x' is no address"):
        token_options(None, "ftp://x")
    with pytest.raises(ConfigError, match="--tokenize-budget-ms"):
        token_options(None, "pool", 0)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="--tokenizer: the tokenizer cannot be used"):
        asyncio.run(_start(tmp_path))


async def _start(tokenizer: Path) -> None:
    service = Indexer(IndexerOptions(port=0, tokens=token_options(tokenizer, None)))
    try:
        await service.start()
    finally:
        await service.stop()
