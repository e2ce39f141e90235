"""Against a server on the loopback interface that answers with what a real vLLM answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from msgspec.structs import replace
from tests.requestcontrol.tokenizing.tiny import CHAT, DATA, TEXT, asked

from pointsman.requestcontrol.tokenizing import remote
from pointsman.requestcontrol.tokenizing.guard import LEAST, Guard
from pointsman.requestcontrol.tokenizing.remote import EngineWay
from pointsman.requestcontrol.tokenizing.result import TooSlowError, UnableError

EXAMPLES = json.loads((DATA / "captures" / "http_examples.json").read_text())
RENDERED = next(row for row in EXAMPLES if row["url"] == "/v1/chat/completions/render")
BODY = msgspec.json.encode(RENDERED["request"])
IDS = tuple(RENDERED["response"]["token_ids"])


class Engine:
    """Answers by path; remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.delay = 0.0
        self.asked: list[tuple[str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.json()))
        await asyncio.sleep(self.delay)
        status, answer = self.answers.get(request.path, (404, {"error": "no"}))
        return web.Response(status=status, body=answer if isinstance(answer, bytes) else msgspec.json.encode(answer))

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@asynccontextmanager
async def running(engine: Engine, guard: Guard | None = None, **options: Any) -> AsyncIterator[EngineWay]:
    app = web.Application()
    app.router.add_post("/{path:.*}", engine.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    way = EngineWay(url, guard or Guard(1000), time.perf_counter, **options)
    try:
        yield way
    finally:
        await way.close()
        await way.close()
        await runner.cleanup()


def run(engine: Engine, use: Callable[[EngineWay], Awaitable[Any]], guard: Guard | None = None, **options: Any) -> Any:
    async def main() -> Any:
        async with running(engine, guard, **options) as way:
            return await use(way)

    return asyncio.run(main())


def test_render() -> None:
    engine = Engine()
    engine.answers["/v1/chat/completions/render"] = 200, RENDERED["response"]
    assert run(engine, lambda way: way.tokens(asked(BODY), BODY)) == IDS
    assert engine.asked == [("/v1/chat/completions/render", RENDERED["request"])], "the body as it came"


def test_the_path_of_the_client_is_not_the_path_asked() -> None:
    engine = Engine()
    engine.answers["/v1/chat/completions/render"] = 200, RENDERED["response"]
    request = asked(BODY, "@elsewhere/x/chat/completions")
    assert run(engine, lambda way: way.tokens(request, BODY)) == IDS


def test_a_model_that_is_not_there_does_not_mean_that_render_is_not() -> None:
    engine = Engine()
    error = {"error": {"message": "The model `other` does not exist.", "type": "NotFoundError", "code": 404}}
    engine.answers["/v1/chat/completions/render"] = 404, error
    engine.answers["/tokenize"] = 404, error

    async def use(way: EngineWay) -> None:
        with pytest.raises(UnableError):
            await way.tokens(asked(BODY), BODY)
        engine.answers["/v1/chat/completions/render"] = 200, RENDERED["response"]
        assert await way.tokens(asked(BODY), BODY) == IDS

    run(engine, use)


def test_both_questions_of_one_request_go_to_one_server() -> None:
    first, second = Engine(), Engine()
    for engine in (first, second):
        engine.answers["/v1/chat/completions/render"] = 403, {}
        engine.answers["/tokenize"] = 200, {"tokens": IDS}
        engine.delay = 0.05

    async def main() -> None:
        async with running(first) as one, running(second) as two:
            addresses = iter([str(one._address), str(two._address)])
            way = EngineWay(lambda: next(addresses), Guard(1000), time.perf_counter)
            try:
                await asyncio.gather(*(way.tokens(asked(BODY), BODY) for _ in range(2)))
            finally:
                await way.close()

    asyncio.run(main())
    assert first.paths == second.paths == ["/v1/chat/completions/render", "/tokenize"]


def test_render_under_the_name_sent_on() -> None:
    engine = Engine()
    engine.answers["/v1/chat/completions/render"] = 200, RENDERED["response"]
    request = replace(asked(BODY), target_model="tiny-v2")
    run(engine, lambda way: way.tokens(request, BODY))
    run(engine, lambda way: way.tokens(asked(BODY), BODY), model="served")
    assert [body["model"] for _, body in engine.asked] == ["tiny-v2", "served"]
    assert engine.asked[0][1] == RENDERED["request"] | {"model": "tiny-v2"}


def test_tokenize_where_render_is_not_served() -> None:
    engine = Engine()
    engine.answers["/v1/chat/completions/render"] = 403, {}
    engine.answers["/tokenize"] = 200, {"count": 22, "max_model_len": 4096, "tokens": IDS}

    async def twice(way: EngineWay) -> None:
        for _ in range(2):
            assert await way.tokens(asked(BODY), BODY) == IDS

    run(engine, twice)
    assert engine.paths == ["/v1/chat/completions/render", "/tokenize", "/tokenize"], "not asked again at once"
    assert engine.asked[1][1] == {
        "model": "tiny",
        "messages": RENDERED["request"]["messages"],
        "add_generation_prompt": True,
        "continue_final_message": False,
        "add_special_tokens": False,
        "chat_template_kwargs": {},
    }


def test_tokenize_a_text_or_tools() -> None:
    engine = Engine()
    engine.answers["/tokenize"] = 200, {"tokens": [1, 2]}
    text = msgspec.json.encode({"prompt": "a b"})
    tools = msgspec.json.encode({"messages": [{"role": "user", "content": "x"}], "tools": []})
    run(engine, lambda way: way.tokens(asked(text, TEXT), text), endpoint="tokenize")
    run(engine, lambda way: way.tokens(asked(tools), tools), endpoint="tokenize")
    assert engine.asked[0] == ("/tokenize", {"model": "tiny", "prompt": "a b", "add_special_tokens": True})
    assert engine.asked[1][1]["tools"] == []


def test_rendered_text_comes_as_a_list() -> None:
    engine = Engine()
    body = msgspec.json.encode({"prompt": "abc def"})
    engine.answers["/v1/completions/render"] = 200, [{"request_id": "c", "token_ids": [1850]}]
    assert run(engine, lambda way: way.tokens(asked(body, TEXT), body)) == (1850,)


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}),
        (302, {}),
        (200, b"not json"),
        (200, {}),
        (200, {"tokens": []}),
        (200, {"tokens": [-1]}),
        (200, {"tokens": ["1"]}),
        (200, [{"token_ids": [1]}, {"token_ids": [2]}]),
        (200, b'{"tokens": [' + b" " * 3000 + b"1]}"),
    ],
)
def test_other_answers_are_no_answers(answer: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_ANSWER_BYTES", 2000)
    engine = Engine()
    engine.answers["/tokenize"] = answer
    with pytest.raises(UnableError):
        run(engine, lambda way: way.tokens(asked(BODY), BODY), endpoint="tokenize")


def test_only_render_when_told_so() -> None:
    for status in (404, 500):
        engine = Engine()
        engine.answers["/v1/chat/completions/render"] = status, {}
        with pytest.raises(UnableError):
            run(engine, lambda way: way.tokens(asked(BODY), BODY), endpoint="render")
        assert engine.paths == ["/v1/chat/completions/render"]


def test_tokenize_is_not_asked_for_images() -> None:
    body = msgspec.json.encode({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
    engine = Engine()
    with pytest.raises(UnableError, match="text only"):
        run(engine, lambda way: way.tokens(asked(body), body))
    assert engine.paths == ["/v1/chat/completions/render"]


def test_nobody_there() -> None:
    async def main() -> None:
        way = EngineWay("http://127.0.0.1:9", Guard(8), time.perf_counter)
        with pytest.raises(UnableError):
            await way.tokens(asked(BODY), BODY)
        await way.close()

    asyncio.run(main())


def test_slow_engines_are_spared() -> None:
    engine, guard = Engine(), Guard(20, spread_seconds=0)
    engine.delay = 5.0

    async def ask(way: EngineWay) -> None:
        for _ in range(LEAST):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await way.tokens(asked(BODY), BODY)
        assert way.stats()["p95_ms"] > 20, "given up after 10 ms, so it would have taken longer than the budget"
        guard.allows(len(BODY), time.perf_counter())  # the probe
        with pytest.raises(TooSlowError):
            await way.tokens(asked(BODY), BODY)

    run(engine, ask, guard)


def test_own_time_out() -> None:
    engine = Engine()
    engine.delay = 5.0
    with pytest.raises(TimeoutError):
        run(engine, lambda way: way.tokens(asked(BODY), BODY), timeout=0.01)
    image = msgspec.json.encode({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
    with pytest.raises(TimeoutError):
        run(engine, lambda way: way.tokens(asked(image, CHAT), image), mm_timeout=0.01)
