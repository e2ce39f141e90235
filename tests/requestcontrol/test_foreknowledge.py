"""What is waited for before a decision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.builders import make_endpoints, make_request
from tests.requestcontrol.test_tokenized import BODY, Way

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.kv import RemoteMatch, RemoteMatches
from pointsman.framework.observer import Observer
from pointsman.requestcontrol.foreknowledge import find_out
from pointsman.requestcontrol.tokenizing.service import Tokenizing

PODS = make_endpoints(2)
REQUEST = make_request(b"hello there")


class Counting(Observer):
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def degraded(self, kind: str) -> None:
        self.kinds.append(kind)


class Remote:
    """Answers with ids of its own, and remembers what it was asked."""

    def __init__(self, ids: tuple[int, ...] | None = (7, 8, 9)) -> None:
        self.matches: RemoteMatches = {"a": RemoteMatch({}), "b": RemoteMatch({}, ids)}
        self.seen: list[InferenceRequest] = []

    def passes(self, request: InferenceRequest) -> bool:
        return False

    async def ask(self, request: InferenceRequest, body: bytes, endpoints: Sequence[Endpoint]) -> RemoteMatches:
        assert (body, endpoints) == (BODY, PODS)
        self.seen.append(request)
        return self.matches


@pytest.mark.parametrize(
    ("way", "remote", "ids", "kinds"),
    [
        (Way(), None, tuple(range(40)), []),
        (Way(able=False), None, None, ["no-tokens"]),
        (Way(30), None, None, ["tokens-late"]),
        (Way(), Remote(), tuple(range(40)), []),  # our own go before the indexer's
        (Way(able=False), Remote(), (7, 8, 9), ["no-tokens"]),
        (None, Remote(), (7, 8, 9), []),
        (None, Remote(None), None, []),
    ],
)
def test_tokens_and_answers(
    way: Way | None, remote: Remote | None, ids: tuple[int, ...] | None, kinds: list[str]
) -> None:
    observer = Counting()
    tokenizing = Tokenizing([way], budget_ms=200) if way else None
    request, matches = asyncio.run(find_out(REQUEST, BODY, PODS, tokenizing, remote, observer))
    assert (request.token_ids, observer.kinds) == (ids, kinds)
    assert request.prompt_tokens == (len(ids) if ids else REQUEST.prompt_tokens)
    assert matches == (remote.matches if remote else {})
    if remote and way:
        assert remote.seen[-1].token_ids == (tuple(range(40)) if "no-tokens" not in kinds else None)
