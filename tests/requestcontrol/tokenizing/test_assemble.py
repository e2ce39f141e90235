from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.builders import make_handle
from tests.requestcontrol.tokenizing.tiny import asked, tiny_folder

from pointsman.errors import ConfigError
from pointsman.framework.build import Builder
from pointsman.framework.loader import load_config
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.registry import installed_plugins
from pointsman.plugins.producers.token_producer import TokenProducerParams
from pointsman.requestcontrol.tokenizing.assemble import make_tokenizing, token_params

BODY = msgspec.json.encode({"messages": [{"role": "user", "content": "hi"}]})


def params(**given: Any) -> TokenProducerParams:
    return msgspec.convert(given, TokenProducerParams)


def plan_of(text: str) -> Plan:
    return Builder(load_config(text, "test"), installed_plugins(), make_handle(), Observer()).build()


def test_from_a_plan() -> None:
    assert token_params(plan_of("plugins: []")) is None
    for name in ("token-producer", "tokenizer"):
        found = token_params(plan_of(f"plugins: [{{type: {name}, parameters: {{budgetMs: 5}}}}]"))
        assert found == params(budgetMs=5)
    with pytest.raises(ConfigError, match="2 token producers: a, b"):
        token_params(plan_of("plugins: [{type: token-producer, name: a}, {type: tokenizer, name: b}]"))


@pytest.mark.parametrize(
    ("given", "ways"),
    [
        ({}, []),
        ({"modelName": "m"}, ["engine"]),
        ({"modelName": "m", "estimate": {}}, []),
        ({"vllm": {}}, ["engine"]),
        ({"modelName": "m", "local": {"path": str(tiny_folder())}}, ["exact-local"]),
        ({"vllm": {"url": "http://h:1"}, "local": {"path": str(tiny_folder())}}, ["exact-local", "engine"]),
    ],
)
def test_ways_in_their_order(given: dict[str, Any], ways: list[str]) -> None:
    service = make_tokenizing(params(**given))
    assert list(service.stats()["ways"]) == ways
    asyncio.run(service.close())


def test_without_an_entry_everything_is_estimated() -> None:
    result = make_tokenizing(None).immediate(asked(BODY))
    assert result is not None
    assert result.way == "estimate"


def test_tokenizes() -> None:
    async def main() -> None:
        service = make_tokenizing(params(local={"path": str(tiny_folder())}, budgetMs=5000))
        result = await service.tokens(asked(BODY), BODY)
        assert (result.way, result.token_ids) == ("exact-local", (1, 1490, 201, 1924, 2, 201, 1, 313, 373, 2724, 201))
        await service.close()

    asyncio.run(main())


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"local\.path: the tokenizer cannot be used"):
        make_tokenizing(params(local={"path": str(tmp_path)}))


def test_a_pod_of_the_pool_is_asked_and_when_there_is_none_nobody() -> None:
    asked_for: list[None] = []

    def none_left() -> None:
        asked_for.append(None)

    service = make_tokenizing(params(vllm={"url": "pool"}), pods=none_left)

    async def main() -> None:
        result = await service.tokens(asked(BODY), BODY)
        assert (result.way, service.counts["engine-unable"], len(asked_for)) == ("estimate", 1, 1)
        await service.close()

    asyncio.run(main())
