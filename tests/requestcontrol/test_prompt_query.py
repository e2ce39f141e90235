"""Which bodies hold a prompt, and what becomes of those that do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.requestcontrol.test_tokenized import BODY as CHAT_BODY
from tests.requestcontrol.test_tokenized import Way

from pointsman.kvcache.query import BadQueryError, Query
from pointsman.requestcontrol import prompt_query
from pointsman.requestcontrol.prompt_query import NoTokenizerError, NoTokensError, prompt_field, read_prompt_query
from pointsman.requestcontrol.tokenizing.service import Tokenizing


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"prompt_hash": [1]}', ""),
        (b'{"model": "m", "token_ids": [1]}', ""),
        (b'{"prompt_hash": [1], "pods": ["prompt", "messages"]}', ""),
        (b'{"prompt_hash": [1], "pods": ["x"], "prompt": null}', ""),
        (b'{"prompt": "a"}', "prompt"),
        (b'{"prompt": "a", "messages": null}', "prompt"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [', ""),
        (b'["prompt"]', ""),
        (b'{"prompt": ' + b"[" * 5000, ""),
        (b"", ""),
    ],
)
def test_the_field_that_holds_the_prompt(body: bytes, field: str) -> None:
    assert prompt_field(body) == field


def test_only_one_field_holds_it() -> None:
    with pytest.raises(BadQueryError, match="not both"):
        prompt_field(b'{"prompt": "a", "messages": []}')


def read(body: bytes | dict[str, Any], *ways: Way) -> prompt_query.Asked:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(read_prompt_query(data, prompt_field(data), Tokenizing(ways, budget_ms=200)))


def test_ids_come_from_whoever_is_asked() -> None:
    found = read(CHAT_BODY, Way(able=False), Way())
    assert found.query == Query(model="m", token_ids=list(range(40)))
    assert not found.wants_ids


def test_ids_given_need_nobody_and_the_rest_of_a_query_is_kept() -> None:
    fields = {"model": "m", "pods": ["a"], "adapter": "l", "block_size": 8}
    for name in ("salt", "cache_salt"):
        found = read({**fields, "prompt": [4, 5], name: "s", "return_token_ids": True})
        query = Query(model="m", pods=["a"], adapter="l", block_size=8, salt="s", token_ids=[4, 5])
        assert found == prompt_query.Asked(query, wants_ids=True)


def test_without_ways_late_and_unable_are_three_things() -> None:
    with pytest.raises(NoTokenizerError, match="--tokenizer PATH"):
        read(CHAT_BODY)
    with pytest.raises(NoTokensError, match="engine: no answer within the budget"):
        read(CHAT_BODY, Way(30))
    with pytest.raises(BadQueryError, match="cannot be told: engine: ") as caught:
        read(CHAT_BODY, Way(able=False))
    assert (caught.value.field, type(caught.value)) == ("messages", BadQueryError)


def test_more_tokens_than_a_query_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_query, "MAX_TOKENS", 39)
    with pytest.raises(BadQueryError, match="more than 39 tokens"):
        read(CHAT_BODY, Way())
