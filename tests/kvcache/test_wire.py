"""The compiled reader of event batches: it reads what the typed decoders read, or leaves it to them."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.kvcache import events
from pointsman.kvcache.events import ALL_CLEARED, BadEventsError, BlockRemoved, BlockStored, decode_batch

speedups = pytest.importorskip("pointsman._speedups", exc_type=ImportError)


def read(payload: bytes) -> Any:
    return speedups.read_events(payload, BlockStored, BlockRemoved, ALL_CLEARED, array)


def both(payload: bytes) -> tuple[Any, Any]:
    """The typed decoders' answer, and what is used."""
    answers: list[tuple[Any, list[Any]]] = []
    for reader in (lambda *_: None, speedups.read_events):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(events, "read_events", reader)
            try:
                batch = decode_batch(payload)
                answers.append((batch, [_plain(event) for event in batch.events]))
            except BadEventsError:
                answers.append(("refused", []))
    return answers[0], answers[1]


def _plain(event: Any) -> Any:
    values = {name: getattr(event, name) for name in type(event).__struct_fields__}
    return type(event), {name: list(value) if isinstance(value, array) else value for name, value in values.items()}


NUMBER = st.integers(0, 2**64 - 1) | st.integers(-5, 300)
TEXT = st.none() | st.sampled_from(["", "GPU", "CPU", "full_attention", "sql", "x" * 40])
SMALL = st.none() | st.integers(-1, 2**33) | st.integers(0, 9)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "block_hashes": st.lists(NUMBER | st.binary(min_size=8, max_size=32), max_size=4) | st.lists(NUMBER, max_size=20),
    "parent_block_hash": st.none() | NUMBER | st.binary(min_size=8, max_size=9),
    "token_ids": st.none() | st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 300), max_size=40) | st.just([[1, 2]]),
    "block_size": SMALL,
    "lora_id": SMALL,
    "medium": TEXT,
    "lora_name": TEXT | st.just({"cache_salt": "s"}),
    "extra_keys": st.none() | st.lists(st.none(), max_size=3) | st.just([["salt"], None]),
    "group_idx": SMALL,
    "kv_cache_spec_kind": TEXT,
    "kv_cache_spec_sliding_window": SMALL,
    "locality": st.none() | st.just("near"),
    "ownership": TEXT,
    "session_id": TEXT,
    "lookahead_token_ids": st.none() | st.just([1]),
    "cache_salt": TEXT,
}
REMOVED = ("block_hashes", "medium", "group_idx", "locality", "ownership")
USUAL = {
    "block_hashes": [1, 2],
    "parent_block_hash": None,
    "token_ids": [1, 2, 3, 4],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
}


@st.composite
def event(draw: st.DrawFn) -> Any:
    tag = draw(st.sampled_from(["BlockStored", "BlockStored", "BlockRemoved", "AllBlocksCleared", "News"]))
    names = list(FIELDS) if tag == "BlockStored" else list(REMOVED) if tag == "BlockRemoved" else []
    names = names[: draw(st.integers(0, len(names)))]
    odd = draw(st.sets(st.sampled_from(names), max_size=3)) if names else set()
    values = {name: draw(FIELDS[name]) if name in odd else USUAL.get(name) for name in names}
    if draw(st.booleans()):
        return [tag, *values.values()]
    return {"type": tag} | values | ({"newer": 1} if draw(st.integers(0, 9)) == 0 else {})


@given(
    st.lists(event(), max_size=4),
    st.sampled_from([None, 0, 3, -1, 2**40, "x"]),
    st.integers(0, 3),
    st.binary(max_size=2),
)
def test_equal_to_the_typed_decoders(made: list[Any], rank: Any, form: int, more: bytes) -> None:
    batch: list[Any] = [1.5, made, rank]
    payload = msgspec.msgpack.encode(batch[:2] if form == 0 else [*batch, 7] if form == 1 else batch)
    for data in (payload, payload + more, payload[:-1]):
        typed, used = both(data)
        assert typed == used


def test_the_usual_forms_are_read() -> None:
    keyed = USUAL | {"lora_name": None, "extra_keys": [None, None], "group_idx": 0}
    removed = {"block_hashes": [5], "medium": "CPU"}
    made: list[dict[str, Any]] = [
        {"type": "BlockStored", **keyed},
        {"type": "BlockRemoved", **removed},
        {"type": "AllBlocksCleared"},
    ]
    for some in (made, [[each["type"], *list(each.values())[1:]] for each in made]):
        payload = msgspec.msgpack.encode([2.0, some, 1])
        assert read(payload) is not None
        typed, used = both(payload)
        assert typed == used
    found = read(msgspec.msgpack.encode([2.0, [{"type": "BlockStored", **USUAL, "lora_id": 7}]]))[1][0]
    assert (found.adapter, found.tokens) == ("lora-id:7", array("I", [1, 2, 3, 4]))


@pytest.mark.parametrize("at", range(60))
def test_cut_short_or_a_byte_wrong(at: int) -> None:
    payload = msgspec.msgpack.encode([2.0, [{"type": "BlockStored", **USUAL}], 1])
    for value in (0x00, 0x90, 0xC0, 0xC1, 0xCF, 0xDD, 0xFF):
        wrong = bytearray(payload)
        wrong[at] = value
        typed, used = both(bytes(wrong))
        assert typed == used
    assert read(payload[:at]) is None


@given(st.binary(max_size=80))
def test_noise_is_left_alone(noise: bytes) -> None:
    typed, used = both(noise)
    assert typed == used


def test_a_mistake_of_the_caller_is_not_hidden() -> None:
    payload = msgspec.msgpack.encode([2.0, [{"type": "BlockStored", **USUAL}], 1])
    with pytest.raises(TypeError):
        speedups.read_events(payload, 1, 2, 3, array)
    with pytest.raises(TypeError):
        speedups.read_events("text", BlockStored, BlockRemoved, ALL_CLEARED, array)
