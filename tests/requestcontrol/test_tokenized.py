"""Decisions that wait for the token ids of their prompt."""

from __future__ import annotations

import asyncio
import math
from time import perf_counter

import pytest
from tests.requestcontrol.rig import CHAT, Rig

from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.errors import NoEndpointsError
from pointsman.requestcontrol.exchange import Exchange, Pending, is_pending
from pointsman.requestcontrol.tokenizing.result import UnableError, WayName
from pointsman.requestcontrol.tokenizing.service import Tokenizing

HEAD = RequestHead({":method": "POST", ":path": CHAT})
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hello there"}]}'


class Way:
    """Answers 40 ids after a while."""

    name: WayName = "engine"

    def __init__(self, seconds: float = 0.0, *, able: bool = True) -> None:
        self._seconds, self._able = seconds, able

    async def tokens(self, request: InferenceRequest, body: bytes) -> tuple[int, ...]:
        assert body == BODY
        await asyncio.sleep(self._seconds)
        if not self._able:
            raise UnableError
        return tuple(range(40))

    def stats(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        """Nothing."""


def rig_with(way: Way | None, budget_ms: float = 500.0) -> Rig:
    rig = Rig()
    rig.director.tokenizing = Tokenizing([way] if way else [], budget_ms=budget_ms)
    return rig


async def _later(rig: Rig, received: float = math.inf) -> Exchange:
    found = rig.director.decide(HEAD, BODY, received=received)
    assert is_pending(found)
    done: asyncio.Future[Pending] = asyncio.get_running_loop().create_future()
    found.add_done_callback(done.set_result)
    await done
    return found.result()


@pytest.mark.parametrize(("way", "tokens"), [(Way(), 40), (Way(able=False), None)])
def test_the_decision_comes_when_the_tokens_are_there(way: Way, tokens: int | None) -> None:
    rig = rig_with(way)
    exchange = asyncio.run(_later(rig))
    assert rig.count("degraded_total", kind="no-tokens") == (tokens is None)
    request = exchange.decision.request
    assert (request.token_ids and len(request.token_ids)) == tokens
    assert exchange.decision.record.prompt_tokens == request.prompt_tokens
    assert rig.ledger.load(exchange.decision.endpoints[0].id).requests == 1
    exchange.end("complete")
    assert rig.ledger.load(exchange.decision.endpoints[0].id).requests == 0


def test_tokens_that_come_too_late_are_not_waited_for() -> None:
    rig = rig_with(Way(10.0), budget_ms=20)
    assert asyncio.run(_later(rig)).decision.request.token_ids is None
    assert rig.count("degraded_total", kind="tokens-late") == 1


def test_time_spent_on_tokens_is_not_the_scorers_but_is_recorded() -> None:
    rig = rig_with(Way(0.3))  # longer than the budget of a pick
    exchange = asyncio.run(_later(rig, received=perf_counter()))
    record = exchange.decision.record
    assert (record.fallback, rig.count("degraded_total", kind="budget")) == (None, 0)
    assert record.scheduling_ms >= 300


def test_without_ways_the_decision_is_there_at_once() -> None:
    exchange = rig_with(None).decide(HEAD, BODY, received=math.inf)
    assert exchange.decision.request.token_ids is None


def test_a_request_refused_later_is_refused_and_counted() -> None:
    rig = rig_with(Way())
    rig.endpoints = ()
    with pytest.raises(NoEndpointsError):
        asyncio.run(_later(rig))
    assert rig.count("refusals_total", reason="no-endpoints") == 1


def test_a_client_that_leaves_meanwhile_leaves_nothing() -> None:
    rig = rig_with(Way(10.0), budget_ms=20_000)

    async def main() -> None:
        found = rig.director.decide(HEAD, BODY, received=math.inf)
        assert is_pending(found)
        await asyncio.sleep(0)
        found.cancel()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert all(rig.ledger.load(endpoint.id).requests == 0 for endpoint in rig.endpoints)
