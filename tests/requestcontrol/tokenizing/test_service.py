from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from msgspec.structs import replace
from tests.builders import make_request
from tests.requestcontrol.tokenizing.tiny import asked, tiny_folder

from pointsman.api.request import InferenceRequest
from pointsman.requestcontrol.tokenizing.guard import Guard
from pointsman.requestcontrol.tokenizing.local import load_tokenizer
from pointsman.requestcontrol.tokenizing.result import AwayError, Tokenization, TooSlowError, UnableError, WayName
from pointsman.requestcontrol.tokenizing.service import Tokenizing, enrich
from pointsman.requestcontrol.tokenizing.threads import LocalWay

BODY = msgspec.json.encode({"messages": [{"role": "user", "content": "hi"}]})
REQUEST = asked(BODY)


class Way:
    """Does as it is told."""

    def __init__(self, name: WayName, does: Any) -> None:
        self.name = name
        self.does = does
        self.closed = False

    async def tokens(self, request: InferenceRequest, body: bytes) -> tuple[int, ...]:
        if isinstance(self.does, float):
            await asyncio.sleep(self.does)
        if isinstance(self.does, BaseException):
            raise self.does
        return (1, 2, 3)

    def stats(self) -> dict[str, float]:
        return {"p95_ms": 1.0}

    async def close(self) -> None:
        self.closed = True


def ask(*ways: Way, request: InferenceRequest = REQUEST, **options: Any) -> tuple[Tokenization, dict[str, int]]:
    service = Tokenizing(ways, **options)
    result = asyncio.run(service.tokens(request, BODY))
    return result, dict(service.counts)


def test_the_first_way_that_tells() -> None:
    result, counts = ask(Way("exact-local", None), Way("engine", None))
    assert (result.way, result.token_ids, result.prompt_tokens, result.late) == ("exact-local", (1, 2, 3), 3, False)
    assert counts == {"exact-local": 1}


def test_falls_to_the_next_way_and_says_so() -> None:
    result, counts = ask(Way("exact-local", UnableError("x")), Way("engine", 0.0))
    assert (result.way, result.late) == ("engine", False)
    assert counts == {"exact-local-unable": 1, "engine": 1}
    result, counts = ask(Way("exact-local", TooSlowError()), Way("engine", 0.0))
    assert (result.way, result.late) == ("engine", True)
    assert counts == {"exact-local-skipped": 1, "engine": 1}
    result, counts = ask(Way("exact-local", RuntimeError("bug")), Way("engine", 0.0))
    assert (result.way, result.late) == ("engine", False)
    assert counts == {"exact-local-failed": 1, "engine": 1}


def test_the_budget_is_for_all_ways_together() -> None:
    start = time.perf_counter()
    result, counts = ask(Way("exact-local", 5.0), Way("engine", 5.0), budget_ms=30)
    assert time.perf_counter() - start < 1
    assert (result.way, result.late, result.token_ids) == ("estimate", True, None)
    assert result.prompt_tokens == REQUEST.prompt_tokens
    assert 25 <= result.ms < 1000
    assert counts == {"exact-local-late": 1, "engine-late": 1, "estimate": 1}


def test_why_nobody_told_is_said() -> None:
    result, _ = ask(Way("exact-local", UnableError("no template")), Way("engine", AwayError("http://x: refused")))
    assert (result.late, result.away) == (False, True)
    assert result.problems == ("exact-local: no template", "engine: http://x: refused")
    result, _ = ask(Way("exact-local", TooSlowError()), Way("engine", UnableError("answered 400")))
    assert (result.late, result.away) == (True, False)
    assert result.problems == ("exact-local: too slow lately, or too long a line", "engine: answered 400")
    assert ask(Way("engine", None))[0].problems == ()


def test_deadline_of_the_caller() -> None:
    service = Tokenizing([Way("engine", 0.0)])
    result = asyncio.run(service.tokens(REQUEST, BODY, deadline=time.perf_counter() - 1))
    assert (result.way, result.late) == ("estimate", True)


def test_what_the_client_sent_is_used_as_it_is() -> None:
    request = replace(REQUEST, token_ids=(5, 6), prompt=b"")
    result, counts = ask(Way("exact-local", None), request=request)
    assert (result.way, result.token_ids) == ("client", (5, 6))
    assert counts == {"client": 1}
    assert enrich(request, result).token_ids is request.token_ids


def test_nothing_to_wait_for() -> None:
    assert Tokenizing([Way("engine", None)]).immediate(REQUEST) is None
    for service, request in ((Tokenizing(), REQUEST), (Tokenizing([Way("engine", None)]), make_request(b""))):
        result = service.immediate(request)
        assert result is not None
        assert (result.way, result.late) == ("estimate", False)


def test_cancelled_by_the_caller() -> None:
    async def main() -> None:
        task = asyncio.create_task(Tokenizing([Way("engine", 5.0)], budget_ms=5000).tokens(REQUEST, BODY))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())


def test_enrich() -> None:
    exact = Tokenization(way="engine", prompt_tokens=3, token_ids=(1, 2, 3))
    assert enrich(REQUEST, exact) == replace(REQUEST, token_ids=(1, 2, 3), prompt_tokens=3)
    same = Tokenization(way="estimate", prompt_tokens=REQUEST.prompt_tokens)
    assert enrich(REQUEST, same) is REQUEST
    assert enrich(REQUEST, replace(same, prompt_tokens=900)).prompt_tokens == 900


def test_stats_and_close() -> None:
    way = Way("engine", 0.0)
    service = Tokenizing([way])
    assert service.stats() == {"counts": {}, "ways": {"engine": {"p95_ms": 1.0}}}
    asyncio.run(service.close())
    assert way.closed


def test_the_event_loop_goes_on_while_tokenizing() -> None:
    async def main() -> None:
        tokenizer = load_tokenizer(tiny_folder())
        service = Tokenizing([LocalWay(tokenizer, Guard(10_000), time.perf_counter)], budget_ms=10_000)
        body = msgspec.json.encode({"messages": [{"role": "user", "content": "some words of text 123 " * 20_000}]})
        task = asyncio.create_task(service.tokens(asked(body), body))
        beats = 0
        while not task.done():
            await asyncio.sleep(0.002)
            beats += 1
        assert (await task).way == "exact-local"
        assert beats > 5, "460 KB take 100 ms and more: a held loop would not get a turn"
        await service.close()

    asyncio.run(main())
