from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.kvcache.sinks import DictSink

from pointsman.kvcache.events import ANY_MEDIUM, BadEventsError, BlockRemoved, BlockStored
from pointsman.kvcache.events_json import decode_plain, decode_tensorrt
from pointsman.kvcache.pod_view import PodView


def plain(*events: Any) -> bytes:
    return json.dumps(events).encode()


def test_plain_events() -> None:
    created = {"type": "block_created", "block_hashes": [1, "0xff"], "token_ids": [1, 2, 3, 4], "cache_salt": "s"}
    evicted = {"type": "block_evicted", "block_hash": -1, "medium": "CPU"}
    offloaded = {"type": "block_offloaded", "block_hashes": [1]}
    batch = decode_plain(
        plain(created, evicted, offloaded, {"type": "other"}, {"type": "block_created", "parent_block_hash": 1.5}, 3),
        9.0,
    )
    assert batch.events == [
        BlockStored([1, 255], None, [1, 2, 3, 4], 2, cache_salt="s"),
        BlockRemoved([2**64 - 1], "CPU"),
        BlockStored([1], tokens=[], medium="CPU"),
        BlockRemoved([1]),
    ]
    assert (batch.ts, batch.skipped) == (9.0, {"unknown-tag": 1, "bad-event": 2})


def test_offloading_moves_a_block_to_the_slower_tier() -> None:
    sink = DictSink()
    view = PodView(sink, 0, "m")
    view.apply(decode_plain(plain({"type": "block_created", "block_hashes": [1], "token_ids": [1, 2]}), 0))
    assert sink.tiers(0) == {0: 1}
    view.apply(decode_plain(plain({"type": "block_offloaded", "block_hashes": [1]}), 0))
    assert sink.tiers(0) == {1: 1}


def tokens(*ids: int) -> list[dict[str, int]]:
    return [{"token_id": one, "token_extra_id": 0} for one in ids]


def test_tensorrt_events() -> None:
    blocks = [{"block_hash": 11, "tokens": tokens(1, 2)}, {"block_hash": 12, "tokens": tokens(3, 4), "lora_id": 5}]
    answer = [
        {"event_id": 0, "data": {"type": "created", "num_blocks_per_cache_level": [10, 0]}},
        {"event_id": 1, "data": {"type": "stored", "parent_hash": None, "blocks": blocks}, "window_size": 4096},
        {"event_id": 2, "data": {"type": "updated", "block_hash": 11, "cache_level": {"old_value": 0, "new_value": 1}}},
        {"event_id": 3, "data": {"type": "removed", "block_hashes": [11, 12]}, "attention_dp_rank": 1},
        {"event_id": 4, "data": {"type": "new"}},
        {"event_id": 5, "data": None},
    ]
    batches = decode_tensorrt(json.dumps(answer).encode(), 1.0)
    assert [number for number, _ in batches] == [0, 1, 2, 3, 4, 5]
    first, second = batches[1][1].events
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert (first.hashes, first.parent, first.tokens, first.block_size, first.group) == ([11], None, [1, 2], 2, 4096)
    assert (second.parent, second.adapter, second.sliding_window) == (11, "lora-id:5", 4096)
    assert batches[2][1].events == [BlockStored([11], medium="CPU"), BlockRemoved([11], "GPU")]
    assert batches[3][1].events == [BlockRemoved([11, 12], ANY_MEDIUM)]
    assert batches[3][1].rank == 1
    assert [batch.skipped for _, batch in batches[4:]] == [{"unknown-tag": 1}, {"bad-event": 1}]


@pytest.mark.parametrize("body", [b"", b"{", b"3", b"[3]", b'[{"event_id": "x"}]'])
def test_what_is_no_list_of_events_is_refused(body: bytes) -> None:
    with pytest.raises(BadEventsError):
        decode_tensorrt(body, 0)


anything = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "data", "event_id", "blocks", "block_hash", "block_hashes", "cache_level", "window_size"]
            ),
            inner | st.sampled_from(["stored", "removed", "updated", "created", "block_created"]),
        )
    ),
    max_leaves=20,
)


@given(anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
def test_any_json_is_read_or_refused(body: bytes) -> None:
    for decode in (decode_plain, decode_tensorrt):
        try:
            decode(body, 0.0)
        except BadEventsError:
            continue
