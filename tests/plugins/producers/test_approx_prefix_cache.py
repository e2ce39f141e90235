from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_endpoints, make_plugin, make_request, make_result

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import PrefixMatch, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.approx_prefix_cache import ApproxPrefixCacheProducer

A, B = make_endpoints(2)
TEXT = bytes(range(256)) * 8  # 2,048 bytes, 512 tokens, 8 blocks of 64


def small(**parameters: Any) -> ApproxPrefixCacheProducer:
    """Blocks of one token, four bytes."""
    return make_plugin(ApproxPrefixCacheProducer, **{"blockSizeTokens": 1, "minBlockSizeTokens": 1} | parameters)


def match(producer: ApproxPrefixCacheProducer, request: InferenceRequest) -> PrefixMatch:
    return run(producer, request)


def run(producer: ApproxPrefixCacheProducer, request: InferenceRequest, chosen: Endpoint | None = None) -> PrefixMatch:
    state = CycleState()
    producer.produce(request, [A, B], state)
    state.seal()
    if chosen:
        producer.picked(request, make_result(chosen), state)
    return state.read(prefix_match_key(producer.name))


def test_remembers_where_prompts_went() -> None:
    producer = make_plugin(ApproxPrefixCacheProducer)
    first = run(producer, make_request(TEXT), A)
    assert (first.block_tokens, first.total_blocks, first.of(A.slot)) == (64, 8, 0)
    again = match(producer, make_request(TEXT[:1024] + b"other" * 100))
    assert (again.total_blocks, again.of(A.slot), again.of(B.slot)) == (5, 4, 0)
    assert again.tokens(A.slot) == 256
    assert again.share(A.slot) == pytest.approx(0.8)


def test_only_picks_are_recorded() -> None:
    producer = make_plugin(ApproxPrefixCacheProducer)
    run(producer, make_request(TEXT))
    assert len(producer.index) == 0


@pytest.mark.parametrize("prompt", [b"", b"x" * 255])
def test_short_prompts_have_no_blocks(prompt: bytes) -> None:
    producer = make_plugin(ApproxPrefixCacheProducer)
    found = run(producer, make_request(prompt), A)
    assert (found.total_blocks, found.share(A.slot)) == (0, 0.0)
    assert len(producer.index) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"target_model": "other"},
        {"cache_salt": "tenant-2"},
        {"prompt": b"", "token_ids": tuple(TEXT)},
    ],
)
def test_models_salts_and_token_ids_are_kept_apart(other: dict[str, Any]) -> None:
    producer = make_plugin(ApproxPrefixCacheProducer)
    run(producer, make_request(TEXT), A)
    assert match(producer, make_request(**{"prompt": TEXT} | other)).of(A.slot) == 0
    assert match(producer, make_request(TEXT, model="alias", target_model="m")).of(A.slot) == 8


def test_token_ids_are_hashed_where_there_is_no_text() -> None:
    producer = small(blockSizeTokens=2)
    run(producer, make_request(token_ids=(1, 2, 3, 4, 5)), A)
    found = match(producer, make_request(token_ids=(1, 2, 3, 9, 5)))
    assert (found.total_blocks, found.of(A.slot)) == (2, 1)


def test_a_conversation_stays_one_whether_its_tokens_were_found_in_time_or_not() -> None:
    producer = make_plugin(ApproxPrefixCacheProducer)
    run(producer, make_request(TEXT, token_ids=tuple(range(512))), A)
    assert match(producer, make_request(TEXT + b"more")).of(A.slot) == 8


@pytest.mark.parametrize(
    ("parameters", "block", "total"),
    [
        ({}, 64, 8),
        ({"blockSizeTokens": 128}, 128, 4),
        ({"minBlockSizeTokens": 1}, 16, 32),
        ({"maxPrefixTokensToMatch": 130}, 64, 2),
        ({"maxPrefixBlocksToMatch": 3}, 64, 3),
        ({"maxPrefixTokensToMatch": 63}, 64, 0),
    ],
)
def test_block_size_and_bounds(parameters: dict[str, Any], block: int, total: int) -> None:
    found = match(make_plugin(ApproxPrefixCacheProducer, **parameters), make_request(TEXT))
    assert (found.block_tokens, found.total_blocks) == (block, total)


def test_bounds_hold_for_token_ids() -> None:
    found = match(small(maxPrefixTokensToMatch=3), make_request(token_ids=(1, 2, 3, 4, 5)))
    assert found.total_blocks == 3


class TestCapacity:
    PROMPT = make_request(b"0123" * 3 + b"4567" * 3)  # six blocks of one token

    @pytest.mark.parametrize(
        ("metrics", "parameters", "kept"),
        [
            ({}, {"lruCapacityPerServer": 4}, 4),
            ({"num_blocks": 2, "block_size": 1}, {}, 2),
            ({"num_blocks": 2, "block_size": 1}, {"autoTune": False}, 6),
            ({"num_blocks": 100, "block_size": 16}, {"lruCapacityPerServer": 4}, 6),
            ({"num_blocks": 10}, {"lruCapacityPerServer": 4}, 4),
            ({"num_blocks": 3, "block_size": 2}, {"blockSizeTokens": 2}, 3),
        ],
    )
    def test_table(self, metrics: dict[str, Any], parameters: dict[str, Any], kept: int) -> None:
        producer = small(**parameters)
        run(producer, self.PROMPT, make_endpoint(0, **metrics))
        assert match(producer, self.PROMPT).of(0) == kept


def test_a_removed_endpoint_is_forgotten() -> None:
    producer = make_plugin(ApproxPrefixCacheProducer)
    run(producer, make_request(TEXT), A)
    run(producer, make_request(TEXT), B)
    producer.endpoint_removed(A)
    found = match(producer, make_request(TEXT))
    assert (found.of(A.slot), found.of(B.slot)) == (0, 8)


class TestAutoBlockSize:
    @staticmethod
    def block(producer: ApproxPrefixCacheProducer, tokens: int) -> int:
        return match(producer, make_request(b"x" * 400, prompt_tokens=tokens)).block_tokens

    @pytest.mark.parametrize(("tokens", "block"), [(100, 3), (800, 4), (1000, 5), (2000, 10), (6000, 20)])
    def test_decided_by_the_first_request(self, tokens: int, block: int) -> None:
        producer = small(blockSizeTokens="auto")
        assert self.block(producer, 0) == 1, "a request without prompt decides nothing"
        assert self.block(producer, tokens) == block
        assert self.block(producer, 1_000_000) == block

    def test_reviewed_every_thousand(self) -> None:
        producer = small(blockSizeTokens="auto")
        assert self.block(producer, 1000) == 5
        run(producer, make_request(b"y" * 400, prompt_tokens=2000), A)
        for _ in range(998):
            assert self.block(producer, 2000) == 5
        assert len(producer.index) > 0
        assert self.block(producer, 2000) == 10
        assert len(producer.index) == 0, "keys of another cut are worth nothing"

    def test_small_changes_are_not_worth_it(self) -> None:
        producer = small(blockSizeTokens="auto")
        assert self.block(producer, 2000) == 10
        assert {self.block(producer, 2400) for _ in range(2001)} == {10}  # 12 is 20 % more

    def test_minimum_holds(self) -> None:
        assert self.block(make_plugin(ApproxPrefixCacheProducer, blockSizeTokens="auto"), 1000) == 64


def test_own_name_own_keys() -> None:
    one, two = small(), make_plugin(ApproxPrefixCacheProducer, name="second")
    assert {key.name for key in one.produces()}.isdisjoint(key.name for key in two.produces())
    state = CycleState()
    for producer in (one, two):
        producer.produce(make_request(TEXT), [A], state)
        assert all(state.get(key) is not None for key in producer.produces())


def test_nothing_to_record_when_its_produce_failed() -> None:
    producer = make_plugin(ApproxPrefixCacheProducer)
    producer.picked(make_request(TEXT), make_result(A), CycleState())
    assert len(producer.index) == 0


@pytest.mark.parametrize("parameters", [{"blockSizeTokens": 0}, {"blockSizeTokens": "big"}, {"lruCapacity": 1}])
def test_refuses(parameters: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        make_plugin(ApproxPrefixCacheProducer, **parameters)
