from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import example, given

from pointsman.kvcache.events import (
    AllCleared,
    BadEventsError,
    BlockRemoved,
    BlockStored,
    EventBatch,
    decode_batch,
)

CAPTURES = Path(__file__).parents[1] / "data/captures"
VERSIONS = json.loads((CAPTURES / "wire_versions.json").read_text())
CASES = [
    pytest.param(version, case, id=f"{version['engine']}-{version['version']}-{case['name']}")
    for version in VERSIONS
    for case in version["cases"]
]
U64 = 2**64 - 1
encode = msgspec.msgpack.encode


def as_map(event: Any, fields: list[str]) -> dict[str, Any]:
    if isinstance(event, dict):
        return event
    last = {"metadata": event[-1]} if isinstance(event[-1], dict) else {}
    return dict(zip(["type", *fields], event, strict=False)) | last


def number(value: Any) -> int:
    return int.from_bytes(value[-8:], "big") if isinstance(value, bytes) else int(value) & U64


@pytest.mark.parametrize(("version", "case"), CASES)
def test_every_version_decodes_to_its_recorded_meaning(version: dict[str, Any], case: dict[str, Any]) -> None:
    batch = decode_batch(bytes.fromhex(case["hex"]))
    assert not batch.skipped
    plain = case.get("plain") or msgspec.msgpack.decode(bytes.fromhex(case["hex"]))
    if isinstance(plain, str):
        plain = ast.literal_eval(plain)  # JSON has no bytes
    assert batch.ts == plain[0]
    assert batch.rank == ((plain[2] if len(plain) > 2 else None) or 0)
    assert len(batch.events) == len(plain[1])
    for event, raw in zip(batch.events, plain[1], strict=True):
        fields = version["removed_fields" if raw_tag(raw) == "BlockRemoved" else "stored_fields"]
        check_event(event, as_map(raw, fields))


def raw_tag(raw: Any) -> str:
    return str(raw["type"] if isinstance(raw, dict) else raw[0])


def check_event(event: Any, meaning: dict[str, Any]) -> None:
    if meaning["type"] == "AllBlocksCleared":
        assert isinstance(event, AllCleared)
        return
    assert list(event.hashes) == [number(value) for value in meaning["block_hashes"]]
    assert event.medium == (meaning.get("medium") or "GPU")
    assert event.group == (meaning.get("group_idx") or 0)
    assert event.ownership == meaning.get("ownership")
    if isinstance(event, BlockRemoved):
        return
    assert isinstance(event, BlockStored)
    parent = meaning["parent_block_hash"]
    assert event.parent == (None if parent is None else number(parent))
    assert list(event.tokens) == meaning["token_ids"]
    assert event.block_size == meaning["block_size"]
    lora_id = meaning.get("lora_id")
    assert event.adapter == (meaning.get("lora_name") or (None if lora_id is None else f"lora-id:{lora_id}"))
    assert event.kind == meaning.get("kv_cache_spec_kind")
    assert event.sliding_window == meaning.get("kv_cache_spec_sliding_window")
    assert event.extra_keys == meaning.get("extra_keys")
    metadata = meaning.get("metadata") or {}
    assert event.cache_salt == (meaning.get("cache_salt") or metadata.get("cache_salt"))
    assert event.session == meaning.get("session_id")


def test_whole_digests_are_kept() -> None:
    digest = bytes(range(32))
    (event,) = decode_batch(encode([1.5, [["BlockStored", [digest], None, [1], 1]]])).events
    assert isinstance(event, BlockStored)
    assert (event.hashes, event.digests) == ([int.from_bytes(digest[24:], "big")], [digest])


def test_sglang_metadata_in_place_of_a_name() -> None:
    event = ["BlockStored", [-1], None, [1, 2], 2, None, "GPU", {"cache_salt": "s"}]
    (stored,) = decode_batch(encode([1.5, [event], 0])).events
    assert isinstance(stored, BlockStored)
    assert (stored.hashes, stored.cache_salt, stored.adapter) == ([U64], "s", None)


def test_eagle_pairs_stand_for_their_first_token() -> None:
    (event,) = decode_batch(encode([1.5, [["BlockStored", [1], None, [[5, 6], [6, 7]], 2]], 0])).events
    assert isinstance(event, BlockStored)
    assert list(event.tokens) == [5, 6]
    (event,) = decode_batch(
        encode([1.5, [{"type": "BlockStored", "block_hashes": [1], "token_ids": [[5, 6], [6, 7]]}], 0])
    ).events
    assert isinstance(event, BlockStored)
    assert list(event.tokens) == [5, 6]


GOOD: list[Any] = ["BlockRemoved", [7]]
BAD = [
    (["BlockRenamed", [1]], "unknown-tag"),
    ({"type": "BlockRenamed"}, "unknown-tag"),
    ({"block_hashes": [1]}, "unknown-tag"),
    (["BlockStored"], "bad-event"),
    (["BlockStored", ["x"], None, [1], 1], "bad-event"),
    (["BlockStored", [1], None, [-1], 1], "bad-event"),
    (["BlockStored", [1], None, [2**32], 1], "bad-event"),
    ({"type": "BlockStored", "block_hashes": 5}, "bad-event"),
    ({"type": "BlockRemoved"}, "bad-event"),
    (7, "bad-event"),
    ([], "bad-event"),
]


@pytest.mark.parametrize(("event", "reason"), BAD)
def test_one_bad_event_does_not_cost_the_batch(event: Any, reason: str) -> None:
    batch = decode_batch(encode([1.5, [GOOD, event, {"type": "AllBlocksCleared"}, GOOD], 3]))
    assert batch.events == [BlockRemoved([7]), AllCleared(), BlockRemoved([7])]
    assert (batch.skipped, batch.rank) == ({reason: 1}, 3)


def test_more_elements_and_keys_than_known_are_ignored() -> None:
    stored = {"type": "BlockStored", "block_hashes": [1], "later": {"a": [1]}}
    batch = decode_batch(encode([1, [stored], 2, "more", None]))
    assert (batch.ts, batch.rank, len(batch.events), batch.skipped) == (1.0, 2, 1, {})
    array = ["BlockStored", [1], None, [2], 1, None, "GPU", None, None, 0, None, None, "x", "y", "z", None, None, 1]
    assert len(decode_batch(encode([1.5, [array], 2, "more"])).events) == 1


def test_many_events_in_either_form() -> None:
    maps = [{"type": "BlockRemoved", "block_hashes": [i], "medium": "CPU", "group_idx": 1} for i in range(70_000)]
    assert decode_batch(encode([1.5, maps, 0])).events[-1] == BlockRemoved([69_999], "CPU", 1)
    arrays = [["BlockRemoved", [i]] for i in range(40)]
    assert decode_batch(encode([1.5, arrays, 0])).events[-1] == BlockRemoved([39])


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x93", encode({}), encode([]), encode([1.5]), encode(["x", []]), encode([float("nan"), []])],
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(BadEventsError):
        decode_batch(payload)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=15,
)
tags = st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Other"])
events = st.lists(
    st.builds(lambda tag, rest: [tag, *rest], tags, st.lists(anything, max_size=6))
    | st.builds(lambda tag, rest: {"type": tag, **rest}, tags, st.dictionaries(st.text(max_size=9), anything))
    | anything,
    max_size=4,
)


@given(st.binary(max_size=200) | st.builds(lambda e, r: encode([1.5, e, r]), events, anything) | anything.map(encode))
@example(b"\x93\xcb" + bytes(8) + b"\xdc\x00")
@example(b"\x91" * 5000)
@example(encode([1.5, [], 0])[:-2] + b"\xc7\xff")
def test_no_bytes_raise_anything_but_the_typed_error(payload: bytes) -> None:
    try:
        batch = decode_batch(payload)
    except BadEventsError:
        return
    assert isinstance(batch, EventBatch)
    for event in batch.events:
        if isinstance(event, BlockStored | BlockRemoved):
            assert all(0 <= value <= U64 for value in event.hashes)
        if isinstance(event, BlockStored):
            assert all(0 <= token < 2**32 for token in event.tokens)
