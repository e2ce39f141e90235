from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
import zmq
import zmq.asyncio

from pointsman.errors import StartupError
from pointsman.sim.profiles import find_profile
from pointsman.sim.server import PodOptions, SimulatedPod

FAST = 50.0
PROFILE = find_profile("qwen3-32b-2xh100")
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello " * 30}], "max_tokens": 6}

Body = Callable[[SimulatedPod, aiohttp.ClientSession], Awaitable[None]]


def serve(body: Body, **options: Any) -> None:
    """Run a coroutine against a pod of its own."""

    async def main() -> None:
        basic = PodOptions("pod-a", PROFILE, model="m", time_scale=FAST)
        pod = SimulatedPod(msgspec.structs.replace(basic, **options))
        await pod.start()
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{pod.port}") as client:
                await asyncio.wait_for(body(pod, client), 15)
        finally:
            await pod.stop()

    asyncio.run(main())


async def post(client: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    async with client.post(path, json=body) as response:
        return response.status, await response.json()


async def stream(client: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of a streamed answer, without the last, ``[DONE]``."""
    async with client.post(path, json=body | {"stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-inference-pod"] == "pod-a"
        parts = [part.removeprefix("data: ") for part in (await response.text()).split("\n\n") if part]
    assert parts.pop() == "[DONE]"
    return [json.loads(part) for part in parts]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the engine has no event to wait for
        await asyncio.sleep(0.01)


def test_a_chat_is_answered_and_its_prefix_kept() -> None:
    async def body(pod: SimulatedPod, client: aiohttp.ClientSession) -> None:
        status, first = await post(client, "/v1/chat/completions", CHAT)
        assert status == 200
        assert len(first["choices"][0]["message"]["content"]) == 24
        assert first["usage"]["completion_tokens"] == 6
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert first["id"].startswith("chatcmpl-")
        *chunks, usage = await stream(
            client, "/v1/chat/completions", CHAT | {"stream_options": {"include_usage": True}}
        )
        assert len(chunks) == 1 + 6
        text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
        assert text == first["choices"][0]["message"]["content"]
        assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
        assert pod.engine.stats.finished["length"] == 2

    serve(body)


def test_completions_take_token_ids_and_echo_the_request_id() -> None:
    async def body(_: SimulatedPod, client: aiohttp.ClientSession) -> None:
        headers = {"X-Request-Id": "abc", "endpoint-load-metrics-format": "TEXT"}
        async with client.post("/v1/completions", json={"prompt": [1, 2, 3]}, headers=headers) as response:
            answer = await response.json()
            assert response.headers["endpoint-load-metrics"].startswith("TEXT named_metrics.")
        assert answer["id"] == "cmpl-abc"
        assert answer["usage"]["prompt_tokens"] == 3
        assert len(answer["choices"][0]["text"]) == 64

    serve(body)


def test_chunks_come_at_the_stream_interval() -> None:
    async def body(_: SimulatedPod, client: aiohttp.ClientSession) -> None:
        # Slow enough that the reader keeps up and sees every report by itself.
        chunks = await stream(client, "/v1/completions", {"prompt": "x", "max_tokens": 12})
        assert [len(chunk["choices"][0]["text"]) // 4 for chunk in chunks] == [1, 5, 5, 1]

    serve(body, stream_interval=5, time_scale=4.0)


def test_headers_come_before_the_first_token() -> None:
    async def body(_: SimulatedPod, client: aiohttp.ClientSession) -> None:
        # At this scale the first token is more than a minute away.
        async with client.post("/v1/completions", json={"prompt": "x", "stream": True}) as response:
            assert response.status == 200

    serve(body, time_scale=0.0002)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "nope", "prompt": "x"}, 404, "NotFoundError"),
        ({"prompt": "x", "n": 2}, 400, "BadRequestError"),
        ({"prompt": "x" * 4 * 41_000}, 400, "BadRequestError"),
        ({"prompt": ""}, 400, "BadRequestError"),
        ([], 400, "BadRequestError"),
    ],
)
def test_refusals_have_vllm_s_form(body: Any, status: int, kind: str) -> None:
    async def ask(_: SimulatedPod, client: aiohttp.ClientSession) -> None:
        got, answer = await post(client, "/v1/completions", body)
        assert got == status
        assert answer["error"].keys() == {"message", "type", "param", "code"}
        assert (answer["error"]["type"], answer["error"]["code"]) == (kind, status)

    serve(ask)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_blocks(streamed: bool) -> None:
    async def body(pod: SimulatedPod, client: aiohttp.ClientSession) -> None:
        request = {"prompt": "x" * 400, "max_tokens": 5000, "stream": streamed}
        asking = asyncio.create_task(client.post("/v1/completions", json=request).__aenter__())
        await until(lambda: pod.engine.stats.generation_tokens > 2)
        asking.cancel() if not streamed else (await asking).close()
        await until(lambda: pod.engine.running == 0)
        assert pod.engine.pool.used == 0

    serve(body, time_scale=2.0)


def test_adapters_are_listed_loaded_and_unloaded() -> None:
    async def body(pod: SimulatedPod, client: aiohttp.ClientSession) -> None:
        load = {"lora_name": "sum", "lora_path": "/x"}
        async with client.post("/v1/load_lora_adapter", json=load) as response:
            assert await response.text() == "Success: LoRA adapter 'sum' added successfully."
        assert (await post(client, "/v1/load_lora_adapter", load))[0] == 400
        async with client.get("/v1/models") as response:
            models = (await response.json())["data"]
        assert [(one["id"], one["parent"]) for one in models] == [("m", None), ("sql", "m"), ("sum", "m")]
        status, answer = await post(client, "/v1/completions", {"model": "sum", "prompt": "x"})
        assert (status, answer["model"]) == (200, "sum")
        assert ("sum", "") in pod.engine.stats.adapters_seen
        async with client.post("/v1/unload_lora_adapter", json={"lora_name": "sum"}) as response:
            assert "removed successfully" in await response.text()
        assert (await post(client, "/v1/unload_lora_adapter", {"lora_name": "sum"}))[0] == 404
        assert (await post(client, "/v1/completions", {"model": "sum", "prompt": "x"}))[0] == 404

    serve(body, adapters=("sql",))


def test_adapters_need_a_slot() -> None:
    async def body(_: SimulatedPod, client: aiohttp.ClientSession) -> None:
        assert (await post(client, "/v1/load_lora_adapter", {"lora_name": "sum"}))[0] == 400

    serve(body)


def test_the_small_pages() -> None:
    async def body(pod: SimulatedPod, client: aiohttp.ClientSession) -> None:
        for path in ("/health", "/ping"):
            async with client.get(path) as response:
                assert response.status == 200
        async with client.get("/version") as response:
            assert await response.json() == {"version": "0.32.0"}
        async with client.get("/kv_event_sources") as response:
            assert await response.json() == {}
        async with client.get("/metrics") as response:
            assert response.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
            assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 0.0\n' in await response.text()
        _, tokens = await post(client, "/tokenize", {"messages": CHAT["messages"], "return_token_strs": True})
        assert (tokens["count"], tokens["max_model_len"]) == (50, 40_960)
        assert len(tokens["token_strs"]) == 50
        _, text = await post(client, "/detokenize", {"tokens": tokens["tokens"]})
        assert text["prompt"].startswith("<|im_start|>user\n")
        await post(client, "/v1/chat/completions", CHAT)
        assert pod.engine.pool.cached
        async with client.post("/reset_prefix_cache") as response:
            assert response.status == 200
        assert not pod.engine.pool.cached

    serve(body)


def test_stopping_ends_streams_cleanly() -> None:
    async def main() -> list[Any]:
        pod = SimulatedPod(PodOptions("pod-a", PROFILE, model="m"))
        await pod.start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{pod.port}") as client:
            asking = asyncio.create_task(stream(client, "/v1/completions", {"prompt": "x", "max_tokens": 5000}))
            await until(lambda: pod.engine.stats.generation_tokens > 2)
            await pod.stop()
            return await asking

    chunks = asyncio.run(main())
    assert chunks[-1]["choices"][0]["finish_reason"] == "abort"


def test_a_taken_port_is_named() -> None:
    async def body(pod: SimulatedPod, _: aiohttp.ClientSession) -> None:
        with pytest.raises(StartupError, match=f"pod-b: cannot listen on 127.0.0.1:{pod.port}"):
            await SimulatedPod(PodOptions("pod-b", PROFILE, port=pod.port)).start()

    serve(body)


def test_a_taken_event_port_is_named() -> None:
    async def body(pod: SimulatedPod, _: aiohttp.ClientSession) -> None:
        taken = int(str(pod.sources()["0"]["endpoint"]).rsplit(":", 1)[1])
        with pytest.raises(StartupError, match="pod-b: cannot publish"):
            await SimulatedPod(PodOptions("pod-b", PROFILE, events_port=taken, replay_port=-1)).start()

    serve(body, events_port=-1, replay_port=-1)


def test_what_is_computed_is_announced() -> None:
    async def body(pod: SimulatedPod, client: aiohttp.ClientSession) -> None:
        async with client.get("/kv_event_sources") as response:
            source = (await response.json())["0"]
        assert source["topic"] == "kv@pod-a@m"
        context = zmq.asyncio.Context()
        subscriber = context.socket(zmq.SUB)
        subscriber.subscribe("kv@pod-a")
        subscriber.connect(source["endpoint"].replace("*", "127.0.0.1"))
        await asyncio.sleep(0.3)
        _, tokens = await post(client, "/tokenize", CHAT)
        await post(client, "/v1/chat/completions", CHAT)
        frames = await subscriber.recv_multipart()
        subscriber.close(linger=0)
        context.term()
        event = msgspec.msgpack.decode(frames[2])[1][0]
        assert int.from_bytes(frames[1], "big") == 0
        assert (event["type"], len(event["block_hashes"]), event["block_size"]) == ("BlockStored", 3, 16)
        assert event["token_ids"] == tokens["tokens"][:48]
        assert pod.engine.drain_events() == []

    serve(body, events_port=-1, replay_port=-1)
