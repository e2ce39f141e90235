"""Actions to bytes by templates: constant replies are made once, others are assembled from finished pieces.

A reply with a pick costs 4 µs from generated classes and 0.15 µs here, 1.3 µs with a header that is new each time.
Bodies are copied once, when the reply is put together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pointsman.extproc import wire
from pointsman.extproc.fastschema import (
    CLEAR_ROUTE_CACHE,
    COMMON_BODY,
    COMMON_HEADERS,
    COMMON_RESPONSE,
    DYNAMIC_METADATA,
    HEADER_KEY,
    HEADER_RAW,
    IMMEDIATE_BODY,
    IMMEDIATE_DETAILS,
    IMMEDIATE_HEADERS,
    IMMEDIATE_RESPONSE,
    IMMEDIATE_STATUS,
    MODE_OVERRIDE,
    NEW_BODY,
    OPTION_ACTION,
    OPTION_HEADER,
    OVERRIDE_BODY_MODE,
    OVERWRITE_IF_EXISTS_OR_ADD,
    REMOVE_HEADERS,
    REPLIES,
    RESPONSE_HEADER_MODE,
    SEND,
    SET_HEADERS,
    STATUS_CODE,
    STREAMED_DATA,
    STREAMED_END,
    STREAMED_RESPONSE,
    STRING_VALUE,
    STRUCT_FIELDS,
    STRUCT_VALUE,
)
from pointsman.extproc.protobytes import MAP_KEY, MAP_VALUE, delimited, varint

_CACHED_DESTINATIONS = 4096
_LONGEST_CACHED_DESTINATION = 512

_STREAM_END = bytes((STREAMED_END, 1))
_ROUTE_END = bytes((CLEAR_ROUTE_CACHE, 1))
_OPTION_END = bytes((OPTION_ACTION, OVERWRITE_IF_EXISTS_OR_ADD))
_NO_PICK = delimited(REMOVE_HEADERS, wire.DESTINATION.encode())
_SHORT_OPTION = b"%c%%c%c%%c%c%%c%%b%c%%c%%b%b" % (SET_HEADERS, OPTION_HEADER, HEADER_KEY, HEADER_RAW, _OPTION_END)
"""Format of one header to set, for lengths below 128: three lengths, name, length, value."""


def encode_response(action: wire.Action) -> bytes:
    """Write the ProcessingResponse for an action."""
    return _ENCODERS[type(action)](action)


# Continue


def _constant(tag: int, mode: wire.BodyMode | None) -> bytes:
    reply = delimited(tag, b"")
    if mode is None:
        return reply
    return reply + delimited(MODE_OVERRIDE, bytes((RESPONSE_HEADER_MODE, SEND, OVERRIDE_BODY_MODE, mode)))


_CONTINUE = {phase: {mode: _constant(tag, mode) for mode in (None, *wire.BodyMode)} for phase, tag in REPLIES.items()}


def _continue(action: wire.Continue) -> bytes:
    constant = _CONTINUE[action.phase][action.response_body_mode]
    if (action.set_headers or action.remove_headers) and action.phase == "response_headers":
        mutation = delimited(COMMON_HEADERS, _changes(action.set_headers, action.remove_headers))
        # the constant begins with the phase's empty message
        return delimited(REPLIES[action.phase], delimited(COMMON_RESPONSE, mutation)) + constant[2:]
    return constant


# Route


class _Pick:
    """What all replies with one destination share."""

    def __init__(self, destination: str) -> None:
        self.metadata = self.header = b""
        if destination:
            text = delimited(STRING_VALUE, destination.encode())
            namespace = delimited(STRUCT_VALUE, _struct(wire.DESTINATION, text))
            self.metadata = delimited(DYNAMIC_METADATA, _struct(wire.DESTINATION_NAMESPACE, namespace))
        self.header = _header(wire.DESTINATION, destination) if destination else _NO_PICK
        self.replies = {phase: self.reply(REPLIES[phase], b"") for phase in ("request_headers", "request_body")}
        # headers are past changing; the metadata alone steers
        self.replies["request_trailers"] = delimited(REPLIES["request_trailers"], b"") + self.metadata

    def reply(self, tag: int, changes: bytes) -> bytes:
        mutation = self.header + changes
        common = b"%c%b%b%b" % (COMMON_HEADERS, varint(len(mutation)), mutation, _ROUTE_END)
        size = varint(len(common))
        return b"%c%b%c%b%b%b" % (
            *(tag, varint(len(common) + len(size) + 1)),
            *(COMMON_RESPONSE, size, common, self.metadata),
        )

    def reply_with_body(self, tag: int, changes: bytes, body: bytes) -> bytes:
        mutation = self.header + changes
        start = b"%c%b%b%c" % (COMMON_HEADERS, varint(len(mutation)), mutation, COMMON_BODY)
        mark = b"%c%b" % (NEW_BODY, varint(len(body)))
        size = varint(len(mark) + len(body))
        length = len(start) + len(size) + len(mark) + len(body) + len(_ROUTE_END)
        inner = varint(length)
        return b"".join((
            b"%c%b%c%b" % (tag, varint(length + len(inner) + 1), COMMON_RESPONSE, inner),
            *(start, size, mark, body, _ROUTE_END, self.metadata),
        ))  # fmt: skip


_PICKS: dict[str, _Pick] = {}


def _route(action: wire.Route) -> bytes:
    pick = _PICKS.get(action.destination) or _new_pick(action.destination)
    phase, body = action.phase, action.body
    plain = body is None and not action.set_headers and not action.remove_headers
    if plain or phase == "request_trailers":
        return pick.replies[phase]
    changes = _changes(action.set_headers, action.remove_headers)
    if body is None:
        return pick.reply(REPLIES[phase], changes)
    return pick.reply_with_body(REPLIES[phase], changes, body)


def _new_pick(destination: str) -> _Pick:
    pick = _Pick(destination)
    if len(destination) <= _LONGEST_CACHED_DESTINATION:
        if len(_PICKS) >= _CACHED_DESTINATIONS:
            # ordered lists have more combinations than a fleet has pods; making one anew costs 4 µs
            _PICKS.clear()
        _PICKS[destination] = pick
    return pick


def _changes(headers: tuple[tuple[str, str], ...], removed: tuple[str, ...]) -> bytes:
    if not removed:
        return b"".join([_header(name, value) for name, value in headers])
    away = [delimited(REMOVE_HEADERS, name.encode()) for name in removed]
    return b"".join([*[_header(name, value) for name, value in headers], *away])


def _header(name: str, value: str) -> bytes:
    key, raw = name.encode(), value.encode()
    size = len(key) + len(raw) + 4
    if size < 124:
        return _SHORT_OPTION % (size + 4, size, len(key), key, len(raw), raw)
    header = delimited(HEADER_KEY, key) + delimited(HEADER_RAW, raw)
    return delimited(SET_HEADERS, delimited(OPTION_HEADER, header) + _OPTION_END)


def _struct(key: str, value: bytes) -> bytes:
    return delimited(STRUCT_FIELDS, delimited(MAP_KEY, key.encode()) + delimited(MAP_VALUE, value))


# Chunk, Replace and Immediate


def _chunk(action: wire.Chunk) -> bytes:
    data, last = action.data, action.end_of_stream
    head = _chunk_head(len(data), last, action.response)
    return b"".join((head, data, _STREAM_END)) if last else head + data


@lru_cache(maxsize=1024)
def _chunk_head(size: int, last: bool, response: bool) -> bytes:
    """Make all that comes before the data; tokens of one stream differ little in length, so most are there already."""
    mark = b"%c%b" % (STREAMED_DATA, varint(size))
    tag = REPLIES["response_body"] if response else REPLIES["request_body"]
    after = len(_STREAM_END) if last else 0
    return _opened((STREAMED_RESPONSE, COMMON_BODY, COMMON_RESPONSE, tag), mark, size + after)


def _replace(action: wire.Replace) -> bytes:
    mark = b"%c%b" % (NEW_BODY, varint(len(action.data)))
    return _opened((COMMON_BODY, COMMON_RESPONSE, REPLIES["response_body"]), mark, len(action.data)) + action.data


def _opened(tags: tuple[int, ...], start: bytes, size: int) -> bytes:
    """Begin messages one inside the other, the innermost first, that hold ``start`` and ``size`` bytes to come."""
    for tag in tags:
        start = b"%c%b%b" % (tag, varint(len(start) + size), start)
    return start


def _immediate(action: wire.Immediate) -> bytes:
    content = delimited(IMMEDIATE_STATUS, b"%c%b" % (STATUS_CODE, varint(action.status)))
    if action.headers:
        content += delimited(IMMEDIATE_HEADERS, _changes(action.headers, ()))
    if action.body:
        content += delimited(IMMEDIATE_BODY, action.body)
    if action.details:
        content += delimited(IMMEDIATE_DETAILS, action.details.encode())
    return delimited(IMMEDIATE_RESPONSE, content)


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    wire.Continue: _continue,
    wire.Route: _route,
    wire.Replace: _replace,
    wire.Chunk: _chunk,
    wire.Immediate: _immediate,
}
