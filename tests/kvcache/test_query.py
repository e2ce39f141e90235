"""Queries over an index: answers, unknown pods, block sizes, and every way to ask wrongly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.kv_index import CPU, DISK, GPU, KVIndex
from pointsman.kvcache.query import MAX_HASHES, MAX_PODS, BadQueryError, Place, PodAnswer, Tiers, answer, parse_query

SIZE = 4
TOKENS = list(range(100, 140))
KEYS = token_block_keys(TOKENS, SIZE, root_key(""))


def place(slot: int, *, rank: int = 0, size: int = SIZE, confidence: float = 1.0, model: str = "m") -> Place:
    return Place(slot, rank, frozenset({model} if model else ()), size, confidence)


def ask(index: KVIndex, places: dict[str, list[Place]], **body: Any) -> dict[str, PodAnswer]:
    def of(pod: str) -> Sequence[Place]:
        return places.get(pod, ())

    return answer(index, parse_query(json.dumps(body).encode()), list(places), of)


@pytest.fixture
def index() -> KVIndex:
    index = KVIndex()
    index.store(0, GPU, KEYS[:6])
    index.store(0, CPU, KEYS[6:7])
    index.store(0, DISK, KEYS[7:8])
    index.store(1, GPU, KEYS[:2])
    return index


def test_keys_as_numbers_and_as_text(index: KVIndex) -> None:
    places = {"a": [place(0)], "b": [place(1, confidence=0.5)]}
    expected = {
        "a": PodAnswer(0.8, 8, 10, 32, SIZE, Tiers(6, 1, 1), 1.0),
        "b": PodAnswer(0.2, 2, 10, 8, SIZE, Tiers(2), 0.5),
    }
    assert ask(index, places, prompt_hash=KEYS) == expected
    assert ask(index, places, prompt_hash=[f"{key:x}" for key in KEYS]) == expected
    assert ask(index, places, prompt_hash=[f"0x{key:016X}" for key in KEYS], pods=["b"]) == {"b": expected["b"]}


def test_token_ids(index: KVIndex) -> None:
    places = {"a": [place(0)], "b": [place(1)]}
    found = ask(index, places, model="m", token_ids=[*TOKENS, 1, 2])
    assert found["a"] == PodAnswer(0.8, 8, 10, 32, SIZE, Tiers(6, 1, 1), 1.0)
    assert ask(index, places, model="m", token_ids=TOKENS, salt="s")["a"].matched_blocks == 0
    assert ask(index, places, model="m", token_ids=TOKENS, adapter="l")["a"].matched_blocks == 0
    assert ask(index, places, model="other", token_ids=TOKENS)["a"] == PodAnswer(block_size=SIZE)
    assert ask(index, places, model="other", prompt_hash=KEYS)["a"] == PodAnswer(block_size=SIZE)
    assert ask(index, places, model="m", prompt_hash=KEYS)["a"] == found["a"]


def test_a_pod_that_nobody_knows_holds_nothing(index: KVIndex) -> None:
    found = ask(index, {"a": [place(0)]}, prompt_hash=KEYS, pods=["x", "a", "x"])
    assert list(found) == ["x", "a"]
    assert found["x"] == PodAnswer()
    assert found["x"].confidence == 0


def test_a_pod_whose_block_size_is_not_known_yet(index: KVIndex) -> None:
    assert ask(index, {"a": [place(0, size=0)]}, model="m", token_ids=TOKENS)["a"] == PodAnswer()


def test_other_block_sizes_are_never_over_credited(index: KVIndex) -> None:
    index.store(0, GPU, KEYS[8:9])
    found = ask(index, {"a": [place(0)]}, model="m", token_ids=TOKENS, block_size=16)["a"]
    assert (found.matched_blocks, found.total_blocks, found.matched_tokens, found.block_size) == (2, 2, 36, 16)
    index.discard(0, DISK, KEYS[7:8])
    found = ask(index, {"a": [place(0)]}, prompt_hash=KEYS, block_size=16)["a"]
    assert (found.matched_blocks, found.total_blocks, found.hit_rate) == (1, 2, 0.5)


def test_the_rank_that_holds_most_answers(index: KVIndex) -> None:
    found = ask(index, {"a": [place(1, rank=0), place(0, rank=3)]}, prompt_hash=KEYS)["a"]
    assert (found.rank, found.matched_blocks) == (3, 8)


def test_pods_with_different_models_and_sizes_in_one_query(index: KVIndex) -> None:
    index.store(5, GPU, token_block_keys(TOKENS, 8, root_key("")))
    found = ask(index, {"a": [place(0)], "c": [place(5, size=8, model="")]}, model="m", token_ids=TOKENS)
    assert (found["a"].matched_blocks, found["c"].matched_blocks) == (8, 5)


def test_nothing_asked() -> None:
    found = ask(KVIndex(), {"a": [place(0)]}, prompt_hash=[])
    assert (found["a"].hit_rate, found["a"].total_blocks) == (0.0, 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt_hash"),
        ({"pods": ["a"]}, "prompt_hash"),
        ({"prompt_hash": 1}, "prompt_hash"),
        ({"prompt_hash": [1, None]}, "prompt_hash[1]"),
        ({"prompt_hash": [1], "pods": "a"}, "pods"),
        ({"prompt_hash": [1], "pods": [""]}, "pods[0]"),
        ({"prompt_hash": [1], "pods": ["a"] * (MAX_PODS + 1)}, "pods"),
        ({"prompt_hash": [1] * (MAX_HASHES + 1)}, "prompt_hash"),
        ({"prompt_hash": [1], "token_ids": [1], "model": "m"}, "token_ids"),
        ({"prompt_hash": [1], "salt": "s"}, "salt"),
        ({"token_ids": [1]}, "model"),
        ({"token_ids": [-1], "model": "m"}, "token_ids[0]"),
        ({"token_ids": [2**32], "model": "m"}, "token_ids[0]"),
        ({"token_ids": [1.5], "model": "m"}, "token_ids[0]"),
        ({"token_ids": [1], "model": "m", "block_size": 0}, "block_size"),
        ({"token_ids": [True], "model": "m"}, "token_ids[0]"),
        ([1], ""),
    ],
)
def test_what_is_refused_names_the_field(body: Any, field: str) -> None:
    with pytest.raises(BadQueryError) as refused:
        parse_query(json.dumps(body).encode())
    assert refused.value.field == field
    assert refused.value.http_status == 400


@pytest.mark.parametrize("key", [-1, 2**64, 2**70, "", "g", "0x", "1_0", "f" * 17, "\u0661"])
def test_a_key_that_is_none(key: int | str) -> None:
    with pytest.raises(BadQueryError) as refused:
        ask(KVIndex(), {}, prompt_hash=[1, key])
    assert refused.value.field == "prompt_hash[1]"


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(BadQueryError, match="prompt_hashes"):
        parse_query(b'{"prompt_hashes": [1]}')


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"prompt_hash": [1], "pods": ["\\ud800"]}'])
def test_no_json(body: bytes) -> None:
    with pytest.raises(BadQueryError):
        parse_query(body)


@given(st.integers(0, 10), st.integers(1, 3), st.integers(1, 50))
def test_credit_in_any_block_size_is_at_most_what_is_held(held: int, ranks: int, size: int) -> None:
    index = KVIndex()
    for rank in range(ranks):
        index.store(rank, GPU, KEYS[: max(0, held - rank)])
    places = {"a": [place(rank, rank=rank) for rank in range(ranks)]}
    found = ask(index, places, model="m", token_ids=TOKENS, block_size=size)["a"]
    assert found.matched_blocks * size <= found.matched_tokens == held * SIZE
    assert 0 <= found.hit_rate <= 1
