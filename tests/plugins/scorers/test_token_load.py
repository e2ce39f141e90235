from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoints, make_handle, make_plugin, make_request

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.keys import PrefixMatch, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.inflight_load import InflightLoadProducer
from pointsman.plugins.scorers.token_load import TokenLoad

ENDPOINTS = make_endpoints(3)


@pytest.mark.parametrize(
    ("parameters", "tokens", "prompt", "scores"),
    [
        # slot 0 holds nothing, slot 1 half of 1,280 tokens, slot 2 all
        ({"queueThresholdTokens": 12_800}, [0, 0, 0], 1280, [0.9, 0.95, 1.0]),
        ({"queueThresholdTokens": 12_800}, [0, 640, 1280], 1280, [0.9, 0.9, 0.9]),
        ({"queueThresholdTokens": 1280}, [0, 0, 640], 1280, [0.0, 0.5, 0.5]),
        ({"queueThresholdTokens": 1280}, [99_999, 0, 0], 0, [0.0, 1.0, 1.0]),
        ({}, [0, 2_097_152, 4_194_304], 0, [1.0, 0.5, 0.0]),
    ],
)
def test_table(parameters: dict[str, Any], tokens: list[int], prompt: int, scores: list[float]) -> None:
    handle = make_handle({slot: InflightLoad(tokens=count) for slot, count in enumerate(tokens)})
    request, state = make_request(prompt_tokens=prompt), CycleState()
    match = PrefixMatch(block_tokens=64, total_blocks=20, blocks=(0, 10, 20))
    state.write(prefix_match_key("approx-prefix-cache-producer"), match)
    make_plugin(InflightLoadProducer, handle).produce(request, ENDPOINTS, state)
    assert make_plugin(TokenLoad, handle, **parameters).score(request, ENDPOINTS, state) == pytest.approx(scores)


def test_names_of_producers() -> None:
    default = make_plugin(TokenLoad)
    assert [spec.type for spec in default.requires()] == ["inflight-load-producer", "approx-prefix-cache-producer"]
    named = make_plugin(TokenLoad, inFlightLoadProducerName="mine", prefixMatchInfoProducerName="precise")
    assert named.requires() == ()
    assert [key.name for key in named.consumes()] == ["inflight-load/mine", "prefix-match/precise"]


def test_refuses() -> None:
    with pytest.raises(msgspec.ValidationError, match="queueThresholdTokens"):
        make_plugin(TokenLoad, queueThresholdTokens=0)
