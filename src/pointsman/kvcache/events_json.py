"""KV-cache events as JSON: engines without native events, and what TensorRT-LLM hands out when asked.

The plain form is an object or a list of objects, each with a ``type`` of ``block_created``, ``block_evicted`` or
``block_offloaded``; the other fields are named as vLLM's. Both forms end up as the events of
:mod:`pointsman.kvcache.events`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pointsman.kvcache.events import (
    ANY_MEDIUM,
    DEFAULT_MEDIUM,
    U64,
    BadEventsError,
    BlockRemoved,
    BlockStored,
    CacheEvent,
    EventBatch,
)

OFFLOAD_MEDIUM = "CPU"
TENSORRT_LEVELS = ("GPU", "CPU")
"""Cache levels of TensorRT-LLM by number."""

_BAD = (msgspec.MsgspecError, ValueError, TypeError, KeyError, OverflowError, RecursionError)


class _Plain(msgspec.Struct, rename={"kind": "type", "hashes": "block_hashes", "parent": "parent_block_hash"}):
    kind: str
    hashes: list[int | str] = []
    block_hash: int | str | None = None
    parent: int | str | None = None
    token_ids: list[int] = []
    block_size: int = 0
    medium: str | None = None
    lora_name: str | None = None
    cache_salt: str | None = None

    def all_hashes(self) -> list[int]:
        one = [] if self.block_hash is None else [self.block_hash]
        return [_number(value) for value in self.hashes + one]


class _Token(msgspec.Struct):
    token_id: int


class _TensorRtBlock(msgspec.Struct):
    block_hash: int
    tokens: list[_Token] = []
    lora_id: int | None = None
    cache_level: int = 0
    mm_keys: list[Any] | None = None


def decode_plain(body: bytes, ts: float) -> EventBatch:
    """A batch from the plain form; ``ts`` is the wall time it came, in seconds.

    Raises:
        BadEventsError: if the body is no JSON object or list.
    """
    found = _loads(body)
    events: list[CacheEvent] = []
    skipped: Counter[str] = Counter()
    for raw in found if isinstance(found, list) else [found]:
        _collect(raw, _plain_events, events, skipped)
    return EventBatch(ts, events, 0, dict(skipped))


def decode_tensorrt(body: bytes, ts: float) -> list[tuple[int, EventBatch]]:
    """Pairs of event id, which counts like a stream's sequence number, and batch, from ``/kv_cache_events``.

    Raises:
        BadEventsError: if the body is no JSON list of events.
    """
    found = _loads(body)
    if not isinstance(found, list):
        raise BadEventsError("TensorRT-LLM's events are a JSON list")
    batches = []
    for raw in found:
        number = raw.get("event_id") if isinstance(raw, dict) else None
        if not isinstance(number, int) or number < 0:
            raise BadEventsError("an event of TensorRT-LLM without an event_id")
        rank = raw.get("attention_dp_rank")
        events: list[CacheEvent] = []
        skipped: Counter[str] = Counter()
        _collect(raw, _tensorrt_events, events, skipped)
        batches.append((number, EventBatch(ts, events, rank if isinstance(rank, int) else 0, dict(skipped))))
    return batches


class _UnknownTypeError(Exception):
    pass


def _collect(
    raw: Any, read: Callable[[Any], Iterator[CacheEvent]], events: list[CacheEvent], skipped: Counter[str]
) -> None:
    try:
        events.extend(list(read(raw)))  # all of an event or nothing of it
    except _UnknownTypeError:
        skipped["unknown-tag"] += 1
    except (*_BAD, AttributeError):
        skipped["bad-event"] += 1


def _plain_events(raw: Any) -> Iterator[CacheEvent]:
    event = msgspec.convert(raw, _Plain)
    if event.kind not in {"block_created", "block_evicted", "block_offloaded"}:
        raise _UnknownTypeError
    hashes = event.all_hashes()
    if event.kind == "block_evicted":
        yield BlockRemoved(hashes, event.medium or DEFAULT_MEDIUM)
        return
    offloaded = event.kind == "block_offloaded"
    yield BlockStored(
        hashes,
        None if event.parent is None else _number(event.parent),
        _tokens(event.token_ids),
        event.block_size or (len(event.token_ids) // len(hashes) if hashes else 0),
        event.lora_name,
        event.medium or (OFFLOAD_MEDIUM if offloaded else DEFAULT_MEDIUM),
        cache_salt=event.cache_salt,
    )
    if offloaded:
        yield BlockRemoved(hashes, DEFAULT_MEDIUM)


def _tensorrt_events(raw: Any) -> Iterator[CacheEvent]:
    data, group = raw["data"], raw.get("window_size") or 0
    # Every pool has a window; the one as long as the model's context is full attention, and the view takes the largest.
    kind = "window" if group else None
    match data["type"]:
        case "created":
            return
        case "stored":
            yield from _tensorrt_stored(data, int(group), kind)
        case "removed":
            hashes = [_number(value) for value in data["block_hashes"]]
            yield BlockRemoved(hashes, ANY_MEDIUM, int(group))
        case "updated":
            level = data.get("cache_level")
            if level:
                hashes = [_number(data["block_hash"])]
                yield BlockStored(hashes, medium=_level(level["new_value"]), group=int(group), kind=kind)
                yield BlockRemoved(hashes, _level(level["old_value"]), int(group))
        case _:
            raise _UnknownTypeError


def _tensorrt_stored(data: Any, group: int, kind: str | None) -> Iterator[BlockStored]:
    parent = None if data.get("parent_hash") is None else _number(data["parent_hash"])
    for block in msgspec.convert(data["blocks"], list[_TensorRtBlock]):
        tokens = _tokens([token.token_id for token in block.tokens])
        hashed = block.block_hash & U64
        yield BlockStored(
            [hashed],
            parent,
            tokens,
            len(tokens),
            None if block.lora_id is None else f"lora-id:{block.lora_id}",
            _level(block.cache_level),
            group,
            kind,
            group or None,
            [[str(key) for key in block.mm_keys]] if block.mm_keys else None,
        )
        parent = hashed


def _loads(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except _BAD as error:
        raise BadEventsError(f"no JSON: {error}") from error


def _number(value: int | str) -> int:
    """A hash as unsigned 64 bits; text is hexadecimal, of which the last 16 digits count."""
    return value & U64 if isinstance(value, int) else int(value.removeprefix("0x")[-16:], 16)


def _tokens(tokens: list[int]) -> list[int]:
    if tokens and not 0 <= min(tokens) <= max(tokens) < 2**32:
        raise ValueError("a token id out of range")
    return tokens


def _level(number: Any) -> str:
    return TENSORRT_LEVELS[number] if number in {0, 1} else f"LEVEL-{number}"
