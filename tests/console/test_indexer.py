"""The index as a service over real HTTP: answers, refusals, whatever JSON."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import aiohttp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.console.indexer_rig import CREATED, TOKENS, Client, serve

from pointsman.app.indexer import Indexer
from pointsman.console.indexer import IndexerServer, IndexerSources
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.query import Query


def test_every_page_answers() -> None:
    async def work(service: Indexer, client: Client) -> None:
        assert await client.get("/healthz") == b"ok\n"
        status, answer = await client.post("/events?pod=a&model=m", [CREATED, {"type": "nonsense"}, 7])
        assert (status, answer) == (200, {"applied": 1, "skipped": {"unknown-tag": 1, "bad-event": 1}})
        assert await client.matched("a") == (4, 0.9)
        _, answer = await client.post("/query", {"prompt_hash": token_block_keys(TOKENS, 16, root_key(""))})
        assert answer["pods"]["a"]["hit_rate"] == 1.0
        assert answer["pods"]["a"]["blocks"] == {"gpu": 4, "cpu": 0, "disk": 0}
        (pod,) = json.loads(await client.get("/pods"))["pods"]
        assert (pod["pod"], pod["gpu"], pod["source"], pod["models"]) == ("a", 4, "push", ["m"])
        stats = json.loads(await client.get("/stats"))
        assert (stats["index"]["blocks"], stats["counts"]["query"]) == (4, 2)
        page = (await client.get("/metrics")).decode()
        for line in (
            "index_size 4.0",
            "kv_cache_lookup_total 8.0",
            "kv_cache_hit_total 8.0",
            'kv_pod_confidence{pod="a",rank="0"} 0.9',
            'kv_pod_blocks{pod="a",rank="0",tier="gpu"} 4.0',
            'kv_indexer_total{kind="pushed-events"} 1.0',
        ):
            assert line in page
        assert b"/query" in await client.get("/")

    serve(work)


def test_evicted_and_offloaded() -> None:
    async def work(service: Indexer, client: Client) -> None:
        await client.post("/events?pod=a&model=m", CREATED)
        await client.post("/events?pod=a", {"type": "block_offloaded", "block_hashes": [4]})
        _, answer = await client.post("/query", {"model": "m", "token_ids": TOKENS})
        assert answer["pods"]["a"]["blocks"] == {"gpu": 3, "cpu": 1, "disk": 0}
        await client.post("/events?pod=a", {"type": "block_evicted", "block_hash": 3})
        assert (await client.matched("a"))[0] == 2

    serve(work)


def test_the_description_fits_the_routes() -> None:
    async def work(service: Indexer, client: Client) -> None:
        document = json.loads(await client.get("/openapi.json"))
        assert document["openapi"] == "3.1.0"
        for path, methods in document["paths"].items():
            if "get" in methods:
                assert await client.get(path)
            else:
                assert (await client.send(path, b"{"))[0] == 400
        schemas = document["components"]["schemas"]
        used = {text.rpartition("/")[2] for text in _references(document)}
        assert used <= set(schemas)
        await client.post("/events?pod=a&model=m", CREATED)
        _, answer = await client.post("/query", {"model": "m", "token_ids": TOKENS})
        assert set(answer["pods"]["a"]) == set(schemas["PodAnswer"]["properties"])

    serve(work)


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if "$ref" in node else []
        return found + [text for child in node.values() for text in _references(child)]
    return [text for child in node for text in _references(child)] if isinstance(node, list) else []


def test_refusals_are_json_and_name_the_field() -> None:
    async def work(service: Indexer, client: Client) -> None:
        assert await client.post("/query", {"prompt_hash": [-1]}) == (
            400,
            {"error": "expected an unsigned number of 64 bits", "field": "prompt_hash[0]"},
        )
        for path, body, field in (
            ("/query", b"", ""),
            ("/query", b"[]", ""),
            ("/query", b'{"model": 1}', "model"),
            ("/events", b"[]", "pod"),
            ("/events?pod=" + "x" * 600, b"[]", "pod"),
            ("/events?pod=a&model=" + "x" * 600, b"[]", "model"),
            ("/events?pod=a", b"7 7", ""),
        ):
            status, answer = await client.send(path, body)
            assert (status, answer["field"]) == (400, field), (path, body)
        assert (await client.send("/nowhere", b""))[0] == 404
        status, answer = await client.send("/pods", b"")
        assert (status, answer["error"]) == (405, "Method Not Allowed")
        status, _ = await client.send("/query", b"no gzip", headers={"Content-Encoding": "gzip"})
        assert status == 400
        assert json.loads(await client.get("/pods")) == {"pods": []}

    serve(work)


async def _nothing(_: bytes) -> dict[str, Any]:
    return {}


def test_bodies_over_the_limit() -> None:
    async def work() -> None:
        sources = IndexerSources(_nothing, lambda *_: {}, list, dict, lambda: b"")
        server = IndexerServer(sources, port=0, max_body=1000)
        port = await server.start()
        try:
            async with aiohttp.ClientSession() as session:
                client = Client(session, port)
                assert (await client.send("/query", b"x" * 1000))[0] == 200
                assert (await client.send("/query", b"x" * 1001))[0] == 413
                bomb = gzip.compress(b"x" * 100_000)
                assert len(bomb) < 1000
                assert (await client.send("/query", bomb, headers={"Content-Encoding": "gzip"}))[0] == 413
        finally:
            await server.stop()

    asyncio.run(work())


FIELDS = st.sampled_from(
    [*Query.__struct_fields__, "type", "block_hashes", "block_hash", "parent_block_hash", "medium", "lora_name", "x"]
)
WORDS = st.text(st.characters(codec=None, categories=None), max_size=3) | st.sampled_from(
    ["block_created", "block_evicted", "block_offloaded", "a", "m", "0xff", "GPU", "\ud800"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 6) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=5),
    max_leaves=12,
)
BODIES = st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode())


def test_any_body_is_answered_or_refused_and_the_index_goes_on() -> None:
    async def work(service: Indexer, client: Client) -> None:
        loop = asyncio.get_running_loop()

        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(["/query", "/events?pod=fuzz", "/events?pod=f&model=m"]), BODIES)
        def throw(path: str, body: bytes) -> None:
            asked = asyncio.run_coroutine_threadsafe(client.send(path, body), loop)
            status, answer = asked.result(5)
            assert status in {200, 400}, (path, body, answer)
            assert status == 200 or set(answer) == {"error", "field"}

        await client.post("/events?pod=a&model=m", CREATED)
        await asyncio.to_thread(throw)
        assert await client.matched("a") == (4, 0.9)
        for path in ("/pods", "/stats", "/metrics"):
            assert await client.get(path)

    serve(work)
