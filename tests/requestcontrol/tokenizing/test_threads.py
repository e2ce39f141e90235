from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest
from tests.requestcontrol.tokenizing.tiny import asked, tiny_folder

from pointsman.requestcontrol.tokenizing import threads as threads_module
from pointsman.requestcontrol.tokenizing.guard import LEAST, Guard
from pointsman.requestcontrol.tokenizing.local import LocalTokenizer, Prepared, load_tokenizer
from pointsman.requestcontrol.tokenizing.prefix_cache import Tokens
from pointsman.requestcontrol.tokenizing.prompts import read_prompt
from pointsman.requestcontrol.tokenizing.result import TooSlowError, UnableError
from pointsman.requestcontrol.tokenizing.threads import LocalWay

CHAT = "/v1/chat/completions"


def body(text: str = "hi") -> bytes:
    return msgspec.json.encode({"messages": [{"role": "user", "content": text}]})


class Held:
    """A tokenizer that waits to be let go."""

    def __init__(self) -> None:
        self.real = load_tokenizer(tiny_folder())
        self.cache = self.real.cache
        self.go = threading.Event()
        self.finished = 0

    def prepare(self, prompt: Any) -> Prepared:
        return self.real.prepare(prompt)

    def finish(self, prepared: Prepared) -> Tokens:
        self.go.wait(5)
        self.finished += 1
        return self.real.finish(prepared)


def way_of(tokenizer: Any, guard: Guard | None = None) -> LocalWay:
    return LocalWay(tokenizer, guard or Guard(1000), time.perf_counter, threads=1)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.001)


def test_tokenizes_in_a_thread() -> None:
    async def main() -> None:
        tokenizer = load_tokenizer(tiny_folder())
        way = way_of(tokenizer)
        prompt = read_prompt(CHAT, body())
        assert prompt is not None
        assert await way.tokens(asked(body()), body()) == tuple(tokenizer.tokens(prompt))
        assert way.stats()["pieces"] == 3
        await way.close()
        with pytest.raises(TooSlowError):
            await way.tokens(asked(body()), body())

    asyncio.run(main())


def test_what_is_given_up_is_known_the_next_time() -> None:
    async def main() -> None:
        held = Held()
        way = way_of(held)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await way.tokens(asked(body()), body())
        held.go.set()
        await until(lambda: held.finished)
        assert await way.tokens(asked(body()), body())
        assert held.cache.hits >= 1
        await way.close()

    asyncio.run(main())


def test_what_waits_in_line_and_is_given_up_is_never_begun() -> None:
    async def main() -> None:
        held = Held()
        way = way_of(held)
        first = asyncio.create_task(way.tokens(asked(body("a")), body("a")))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await way.tokens(asked(body("b")), body("b"))
        held.go.set()
        await first
        await way.close()
        assert held.finished == 1

    asyncio.run(main())


def test_a_long_line_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "MAX_WAITING", 1)

    async def main() -> None:
        held = Held()
        way = way_of(held)
        first = asyncio.create_task(way.tokens(asked(body()), body()))
        await asyncio.sleep(0)
        with pytest.raises(TooSlowError):
            await way.tokens(asked(body()), body())
        held.go.set()
        await first
        await way.close()

    asyncio.run(main())


def test_what_would_take_too_long_is_skipped_but_known_the_next_time() -> None:
    async def main() -> None:
        tokenizer, guard = load_tokenizer(tiny_folder()), Guard(8, spread_seconds=0)
        way, long = way_of(tokenizer, guard), body("word " * 5000)
        now = time.perf_counter()
        for _ in range(LEAST):
            guard.note(20_000, 100.0, now)
        guard.allows(20_000, now)  # the probe
        with pytest.raises(TooSlowError):
            await way.tokens(asked(long), long)
        await until(lambda: len(tokenizer.cache) >= 2)
        assert len(await way.tokens(asked(long), long)) > 5000, "only a short tail is left to do"
        await way.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (CHAT, b"{"),
        (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
        (CHAT, b" " * (threads_module.MAX_BODY_BYTES + 1)),
        ("/v1/embeddings", b'{"input": "x"}'),
    ],
)
def test_unable(path: str, data: bytes) -> None:
    async def main() -> None:
        way = way_of(load_tokenizer(tiny_folder()))
        with pytest.raises(UnableError):
            await way.tokens(asked(data, path), data)
        await way.close()

    asyncio.run(main())


def test_refused_by_the_template() -> None:
    async def main() -> None:
        way = way_of(LocalTokenizer((tiny_folder() / "tokenizer.json").read_text()))
        with pytest.raises(UnableError, match="no chat template"):
            await way.tokens(asked(body()), body())
        await way.close()

    asyncio.run(main())
