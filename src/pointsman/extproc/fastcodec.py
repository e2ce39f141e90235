"""The codec of our own transport: same functions and same meaning as ``codec``, without the generated classes.

Proxies write the same shape time and again, so each message is first read by code that knows only that shape (fields
in order, no repeats, short tags). Whatever else comes, right or wrong, is read once more by the complete reader of
``protobytes``, which also owns every refusal. The short way never guesses: it gives up.

Where the time goes (15 headers and a subset hint, one core, same run): generated classes 13 µs for the dictionary of
headers alone; here a header that was seen before costs 0.25 µs and a new one 0.8 µs. A cache of whole header blocks
would never hit, because of ``x-request-id``; so single headers are cached.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from pointsman.api.request import RequestHead
from pointsman.extproc import wire
from pointsman.extproc.fastencode import encode_response
from pointsman.extproc.fastschema import (
    BODY_DATA,
    BODY_END,
    FILTER_METADATA,
    HEADER_KEY,
    HEADER_RAW,
    HEADER_TEXT,
    HEADER_VALUE,
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
    STRING_VALUE,
    STRUCT_FIELDS,
)
from pointsman.extproc.protobytes import MalformedError, Parsed, parse

__all__ = ["decode_request", "encode_response"]

_Pair: TypeAlias = tuple[str, str]
_Context: TypeAlias = tuple[tuple[str, ...] | None, tuple[int, int] | None]
"""What comes beside the phase: the subset hint, the numbers of the two body modes."""

_NO_CONTEXT: _Context = (None, None)
_MODES = {int(mode): mode for mode in wire.BodyMode}
_REQUEST_TRAILERS, _RESPONSE_TRAILERS = wire.RequestTrailers(), wire.ResponseTrailers()

_CACHED_HEADERS = 2048
_CACHED_NAMES = 1024
_CACHED_CONTEXTS = 256
_LONGEST_CACHED_HEADER = 256
_LONGEST_CACHED_CONTEXT = 4096

_FLEETING = frozenset({
    # new with every request
    *("content-length", "date", "traceparent", "x-b3-spanid", "x-b3-traceid", "x-envoy-upstream-service-time"),
    *("x-request-id",),
    # secrets do not outlive their request
    *("authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"),
})  # fmt: skip
"""Headers not worth caching, or not to be kept."""


class HeaderCache:
    """Decoded headers by their bytes, bounded: two generations, so that what is in use survives and the rest goes.

    Memory ends at about 2 × 2048 × 0.6 KB = 2.4 MB.
    """

    def __init__(self) -> None:
        self.young: dict[bytes, _Pair] = {}
        self.old: dict[bytes, _Pair] = {}
        self.names: dict[bytes, str] = {}

    def learn(self, entry: bytes) -> _Pair:
        """Read a header that is not among the young."""
        pair = self.old.get(entry)
        if pair is None:
            pair = self._read(entry)
            if pair[0] in _FLEETING or len(entry) > _LONGEST_CACHED_HEADER:
                return pair
        if len(self.young) >= _CACHED_HEADERS:
            self.old, self.young = self.young, {}
        self.young[entry] = pair
        return pair

    def _read(self, entry: bytes) -> _Pair:
        size = entry[1]
        if entry[0] == HEADER_KEY and size < 128:
            at = size + 2
            key = entry[2:at]
            name = self.names.get(key) or self._name(key)
            if at == len(entry):
                return name, ""
            tag, size = entry[at], entry[at + 1]
            at += 2
            if size > 127:
                size, at = _long(entry, at)
            if at + size == len(entry) and size:
                if tag == HEADER_RAW:
                    return name, str(entry[at:], "utf-8", "replace")
                if tag == HEADER_TEXT:
                    return name, str(entry[at:], "utf-8")
        return _pair(parse(HEADER_VALUE, entry, 0, len(entry), {}))

    def _name(self, key: bytes) -> str:
        name = key.decode().lower()
        if len(self.names) >= _CACHED_NAMES:
            self.names.clear()
        if len(key) < 64:
            self.names[key] = name
        return name


_HEADERS = HeaderCache()
_CONTEXTS: dict[bytes, _Context] = {}


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
        size, at = _long(data, at)
    end = at + size
    rest = len(data) - end
    if rest < 0 or rest > _LONGEST_CACHED_CONTEXT:
        return None
    if tag == REQUEST_BODY or tag == RESPONSE_BODY:  # noqa: PLR1714 - the set lookup costs 30 ns more
        if rest and _context(data[end:]) is None:
            return None
        return _body(tag, data, at, end)
    if tag != REQUEST_HEADERS and tag != RESPONSE_HEADERS:  # noqa: PLR1714 - idem
        return None
    context = _context(data[end:]) if rest else _NO_CONTEXT
    return None if context is None else _headers(tag, data, at, end, context)


def _body(tag: int, data: bytes, at: int, end: int) -> wire.Event | None:
    body, stop = b"", at
    if at < end and data[at] == BODY_DATA:
        size, at = data[at + 1], at + 2
        if size > 127:
            size, at = _long(data, at)
        stop = at + size
        if stop > end:
            return None
        body = data[at:stop]  # the only copy
    last = False
    if stop != end:
        if stop + 2 != end or data[stop] != BODY_END or data[stop + 1] != 1:
            return None
        last = True
    return wire.RequestBody(body, last) if tag == REQUEST_BODY else wire.ResponseBody(body, last)


def _headers(tag: int, data: bytes, at: int, end: int, context: _Context) -> wire.Event | None:
    if data[at] != HEADERS_MAP:
        return None
    size, at = data[at + 1], at + 2
    if size > 127:
        size, at = _long(data, at)
    stop = at + size
    last = False
    if stop != end:
        if stop + 2 != end or data[stop] != HEADERS_END or data[stop + 1] != 1:
            return None
        last = True
    pairs = _header_pairs(data, at, stop)
    if pairs is None:
        return None
    headers = dict(pairs)
    if len(headers) != len(pairs):
        headers = _joined(pairs)
    if tag == REQUEST_HEADERS:
        return _request_headers(headers, last, context)
    return wire.ResponseHeaders(headers, last)


def _header_pairs(data: bytes, at: int, end: int) -> list[_Pair] | None:
    known, learn = _HEADERS.young.get, _HEADERS.learn
    pairs: list[_Pair] = []
    add = pairs.append
    while at < end:
        if data[at] != MAP_HEADERS:
            return None
        size = data[at + 1]
        at += 2
        if size > 127:
            size, at = _long(data, at)
        stop = at + size
        entry = data[at:stop]
        add(known(entry) or learn(entry))
        at = stop
    return pairs if at == end else None


def _long(data: bytes, at: int) -> tuple[int, int]:
    """Read a length whose first of two to four bytes lies before ``at``; longer ones are no usual shape."""
    result, shift = data[at - 1] & 127, 7
    for index in range(at, at + 3):
        byte = data[index]
        result |= (byte & 127) << shift
        if byte < 128:
            return result, index + 1
        shift += 7
    raise MalformedError("a very long message")


def _context(rest: bytes) -> _Context | None:
    """Read what follows the phase: mostly the same bytes with every request of a gateway."""
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
        return wire.ResponseHeaders(_header_dict(part), bool(part.get(HEADERS_END)))
    if tag == REQUEST_BODY:
        return wire.RequestBody(part.get(BODY_DATA, b""), bool(part.get(BODY_END)))
    if tag == RESPONSE_BODY:
        return wire.ResponseBody(part.get(BODY_DATA, b""), bool(part.get(BODY_END)))
    return _REQUEST_TRAILERS if tag == REQUEST_TRAILERS else _RESPONSE_TRAILERS


def _request_headers(headers: dict[str, str], last: bool, context: _Context) -> wire.RequestHeaders:
    subset, numbers = context
    head = RequestHead(headers, subset)
    if numbers is None:
        return wire.RequestHeaders(head, last)
    modes = [_MODES.get(number) for number in numbers]
    if None in modes:
        raise wire.WireError(f"unknown body mode {numbers[modes.index(None)]}")
    return wire.RequestHeaders(head, last, *modes)


def _header_dict(part: Parsed) -> dict[str, str]:
    return _joined(_pair(header) for header in part.get(HEADERS_MAP, {}).get(MAP_HEADERS, ()))


def _joined(pairs: Iterable[_Pair]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, value in pairs:
        result[name] = f"{result[name]},{value}" if name in result else value
    return result


def _pair(header: Parsed) -> _Pair:
    # Envoy fills raw_value, other proxies value; bytes that are no text must not fail the request
    raw: bytes = header.get(HEADER_RAW, b"")
    value = raw.decode("utf-8", "replace") if raw else header.get(HEADER_TEXT, "")
    return header.get(HEADER_KEY, "").lower(), value


def _read_context(parsed: Parsed) -> _Context:
    config = parsed.get(PROTOCOL_CONFIG)
    metadata = parsed.get(METADATA_CONTEXT, {}).get(FILTER_METADATA, {})
    value = metadata.get(wire.SUBSET_NAMESPACE, {}).get(STRUCT_FIELDS, {}).get(wire.SUBSET_KEY)
    subset = None if value is None else tuple(entry for entry in map(str.strip, _subset(value)) if entry)
    if config is None:
        return subset, None
    return subset, (_enum(config.get(REQUEST_BODY_MODE, 0)), _enum(config.get(RESPONSE_BODY_MODE, 0)))


def _subset(value: dict[int, Any]) -> list[str]:
    if LIST in value:
        return [item.get(STRING_VALUE, "") for item in value[LIST].get(LIST_VALUES, ())]
    text: str = value.get(STRING_VALUE, "")
    return text.split(",")


def _enum(number: int) -> int:
    return number & 0xFFFFFFFF  # enums have 32 bits; the generated classes drop the others too
