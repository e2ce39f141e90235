from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoints, make_plugin, make_request
from tests.requestcontrol.tokenizing.tiny import tiny_folder

from pointsman.errors import ConfigError
from pointsman.framework.state import CycleState
from pointsman.plugins.producers import token_producer
from pointsman.plugins.producers.token_producer import Tokenizer, TokenProducer


def test_writes_nothing() -> None:
    producer, state = make_plugin(TokenProducer), CycleState()
    producer.produce(make_request("x"), make_endpoints(1), state)
    assert producer.produces() == ()


def test_accepts_llmds_parameters() -> None:
    producer = make_plugin(
        Tokenizer,
        modelName="m",
        vllm={"url": "http://localhost:8000", "timeout": "1m30s", "mmTimeout": "500ms"},
        estimate={
            "image": {
                "mode": "dynamic",
                "defaultResolution": {"width": 1024, "height": 512},
                "dynamic": {"factor": 256},
            },
            "video": {"frames": {"mode": "sampled"}},
        },
    )
    assert producer.type == "tokenizer"
    engine, estimate = producer.params.engine, producer.params.estimate
    assert engine is not None
    assert (engine.timeout_seconds, engine.mm_timeout_seconds) == (90.0, 0.5)
    assert estimate is not None
    assert estimate.image.tokens == 2048
    assert producer.params.budget_ms == 8


def test_image_estimates() -> None:
    assert make_plugin(TokenProducer, estimate={}).params.estimate.image.tokens == 225  # type: ignore[union-attr]
    static = make_plugin(TokenProducer, estimate={"image": {"mode": "static", "static": {"staticToken": 7}}})
    assert static.params.estimate is not None
    assert static.params.estimate.image.tokens == 7


def test_parameters_load_again() -> None:
    params = make_plugin(TokenProducer, vllm={}, local={"path": str(tiny_folder())}).params
    assert msgspec.convert(msgspec.to_builtins(params), type(params)) == params


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"local": {"path": "/nowhere"}}, r"local\.path: '/nowhere' does not exist \(give the model's folder"),
        ({"local": {"path": ""}}, r"local\.path: '' does not exist"),
        ({"local": {"path": str(Path(__file__).parent)}}, r"holds no tokenizer\.json \(give the folder with"),
        ({"local": {"path": str(tiny_folder()), "chatTemplate": "/nope"}}, r"local\.chatTemplate: '/nope' is no file"),
        ({"vllm": {"url": "localhost:8000"}}, r"vllm\.url: 'localhost:8000' is no address \(write it like http"),
        ({"vllm": {"url": "http://h:99999"}}, r"vllm\.url"),
        ({"udsTokenizerConfig": {"socketFile": "/tmp/x"}}, r"udsTokenizerConfig: .* \(give vllm\.url"),
    ],
)
def test_says_what_is_wrong_and_what_to_do(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plugin(TokenProducer, **given)


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_producer, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"tokenizers and jinja2 not installed \(pip install"):
        make_plugin(TokenProducer, local={"path": str(tiny_folder())})


@pytest.mark.parametrize("given", [{"budgetMs": 0}, {"vllm": {"timeout": "5"}}, {"local": {}}, {"unknown": 1}])
def test_refuses_what_it_does_not_know(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_plugin(TokenProducer, **given)
