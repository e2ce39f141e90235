"""The codec of our own transport: same functions and same meaning as ``codec``, without the generated classes.

Proxies write the same shape time and again, so each message is first read by code that knows only that shape (fields
in order, no repeats, short tags). Whatever else comes, right or wrong, is read once more by the complete reader of
``protobytes``, which also owns every refusal. The short way never guesses: it gives up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pointsman.api.request import RequestHead
from pointsman.extproc import wire
from pointsman.extproc.fastencode import encode_response
from pointsman.extproc.fastheaders import HeaderReader, joined, long_length, pair
from pointsman.extproc.fastschema import (
    BODY_DATA,
    BODY_END,
    FILTER_METADATA,
    HEADERS_END,
    HEADERS_MAP,
    LIST,
    LIST_VALUES,
    MAP_HEADERS,
    METADATA_CONTEXT,
    PROTOCOL_CONFIG,
    REQUEST,
    REQUEST_BODY,
    REQUEST_BODY_MODE,
    REQUEST_HEADERS,
    REQUEST_TRAILERS,
    RESPONSE_BODY,
    RESPONSE_BODY_MODE,
    RESPONSE_HEADERS,
    RESPONSE_TRAILERS,
    STRING_VALUE,
    STRUCT_FIELDS,
    TRAILERS_MAP,
)
from pointsman.extproc.protobytes import MalformedError, Parsed, parse

__all__ = ["decode_request", "encode_response"]


class _Context(NamedTuple):
    """What comes beside the phase; ``wrong`` says what is wrong with the body modes, if anything."""

    subset: tuple[str, ...] | None = None
    request_mode: wire.BodyMode | None = None
    response_mode: wire.BodyMode | None = None
    wrong: str = ""
    served: str = ""


_NO_CONTEXT = _Context()
_MODES = {int(mode): mode for mode in wire.BodyMode}
_REQUEST_TRAILERS, _RESPONSE_TRAILERS = wire.RequestTrailers(), wire.ResponseTrailers()

_CACHED_CONTEXTS = 1024  # a fleet's worth of served endpoints; 4 MB at the very most
_LONGEST_CACHED_CONTEXT = 4096

_CONTEXTS: dict[bytes, _Context] = {}
_HEADERS = HeaderReader()


def decode_request(data: bytes) -> wire.Event:
    """Read a ProcessingRequest.

    Raises:
        WireError: when the bytes are no such message, or one of a kind we do not know.
    """
    try:
        event = _usual(data)
    except (IndexError, UnicodeDecodeError, MalformedError):
        event = None
    return _any(data) if event is None else event


# The usual shape. A length may reach beyond its message, and a slice is then silently short: so each loop must end
# exactly at its message's end, else None is returned.


def _usual(data: bytes) -> wire.Event | None:
    tag, size, at = data[0], data[1], 2
    if size > 127:
        size, at = long_length(data, at)
    end = at + size
    rest = len(data) - end
    context: _Context | None = _NO_CONTEXT
    if rest:
        context = _context(data[end:]) if 0 < rest <= _LONGEST_CACHED_CONTEXT else None
    reader = _READERS.get(tag)
    return None if context is None or reader is None else reader(tag, data, at, end, context)


def _body(tag: int, data: bytes, at: int, end: int, _ignored: _Context) -> wire.Event | None:
    stop = at
    if at < end and data[at] == BODY_DATA:
        size, at = data[at + 1], at + 2
        if size > 127:
            size, at = long_length(data, at)
        stop = at + size
    last = stop != end
    if last and (stop + 2 != end or data[stop] != BODY_END or data[stop + 1] != 1):
        return None
    body = data[at:stop]  # the only copy
    return wire.RequestBody(body, last) if tag == REQUEST_BODY else wire.ResponseBody(body, last)


def _headers(tag: int, data: bytes, at: int, end: int, context: _Context) -> wire.Event | None:
    if data[at] != HEADERS_MAP:
        return None
    size, at = data[at + 1], at + 2
    if size > 127:
        size, at = long_length(data, at)
    stop = at + size
    last = stop != end
    if last and (stop + 2 != end or data[stop] != HEADERS_END or data[stop + 1] != 1):
        return None
    pairs = _HEADERS.read(data, at, stop)
    if pairs is None:
        return None
    headers = dict(pairs)
    if len(headers) != len(pairs):
        headers = joined(pairs)
    if tag == REQUEST_HEADERS:
        return _request_headers(headers, last, context)
    return wire.ResponseHeaders(headers, last, context.served)


def _trailers(tag: int, data: bytes, at: int, end: int, _ignored: _Context) -> wire.Event | None:
    if at < end:
        if data[at] != TRAILERS_MAP:
            return None
        size, at = data[at + 1], at + 2
        if size > 127:
            size, at = long_length(data, at)
        if at + size != end or _HEADERS.read(data, at, end) is None:
            return None
    return _REQUEST_TRAILERS if tag == REQUEST_TRAILERS else _RESPONSE_TRAILERS


_READERS = {
    REQUEST_HEADERS: _headers,
    RESPONSE_HEADERS: _headers,
    REQUEST_BODY: _body,
    RESPONSE_BODY: _body,
    REQUEST_TRAILERS: _trailers,
    RESPONSE_TRAILERS: _trailers,
}


def _context(rest: bytes) -> _Context | None:
    """Read what follows the phase: mostly the same bytes with every request of a gateway; if not, it takes 17 µs."""
    context = _CONTEXTS.get(rest)
    if context is None:
        parsed = parse(REQUEST, rest, 0, len(rest), {})
        if not REQUEST.oneof.isdisjoint(parsed):
            return None
        context = _read_context(parsed)
        if len(_CONTEXTS) >= _CACHED_CONTEXTS:
            _CONTEXTS.clear()
        _CONTEXTS[rest] = context
    return context


# Any shape


def _any(data: bytes) -> wire.Event:
    try:
        parsed = parse(REQUEST, data, 0, len(data), {})
    except MalformedError as error:
        raise wire.WireError(f"{len(data)} bytes that are no ProcessingRequest: {error}") from None
    tag = next(iter(REQUEST.oneof & parsed.keys()), None)
    if tag is None:
        raise wire.WireError("the message holds neither headers nor body nor trailers")
    part = parsed[tag]
    if tag == REQUEST_HEADERS:
        return _request_headers(_header_dict(part), bool(part.get(HEADERS_END)), _read_context(parsed))
    if tag == RESPONSE_HEADERS:
        return wire.ResponseHeaders(_header_dict(part), bool(part.get(HEADERS_END)), _read_context(parsed).served)
    if tag == REQUEST_BODY:
        return wire.RequestBody(part.get(BODY_DATA, b""), bool(part.get(BODY_END)))
    if tag == RESPONSE_BODY:
        return wire.ResponseBody(part.get(BODY_DATA, b""), bool(part.get(BODY_END)))
    return _REQUEST_TRAILERS if tag == REQUEST_TRAILERS else _RESPONSE_TRAILERS


def _request_headers(headers: dict[str, str], last: bool, context: _Context) -> wire.RequestHeaders:
    subset, request_mode, response_mode, wrong, _ = context
    if wrong:
        raise wire.WireError(wrong)
    return wire.RequestHeaders(RequestHead(headers, subset), last, request_mode, response_mode)


def _header_dict(part: Parsed) -> dict[str, str]:
    return joined(pair(header) for header in part.get(HEADERS_MAP, {}).get(MAP_HEADERS, ()))


def _read_context(parsed: Parsed) -> _Context:
    metadata = parsed.get(METADATA_CONTEXT, {}).get(FILTER_METADATA, {})
    value = metadata.get(wire.SUBSET_NAMESPACE, {}).get(STRUCT_FIELDS, {}).get(wire.SUBSET_KEY)
    subset = None if value is None else tuple(entry for entry in map(str.strip, _subset(value)) if entry)
    value = metadata.get(wire.DESTINATION_NAMESPACE, {}).get(STRUCT_FIELDS, {}).get(wire.SERVED_KEY, {})
    context = _Context(subset, served=value.get(STRING_VALUE, "").strip())
    config = parsed.get(PROTOCOL_CONFIG)
    if config is None:
        return context
    # enums have 32 bits; the generated classes drop the others too
    numbers = [config.get(tag, 0) & 0xFFFFFFFF for tag in (REQUEST_BODY_MODE, RESPONSE_BODY_MODE)]
    request_mode, response_mode = (_MODES.get(number) for number in numbers)
    if request_mode is None or response_mode is None:
        unknown = numbers[0] if request_mode is None else numbers[1]
        return context._replace(wrong=f"unknown body mode {unknown}")
    return context._replace(request_mode=request_mode, response_mode=response_mode)


def _subset(value: dict[int, Any]) -> list[str]:
    if LIST in value:
        return [item.get(STRING_VALUE, "") for item in value[LIST].get(LIST_VALUES, ())]
    text: str = value.get(STRING_VALUE, "")
    return text.split(",")
