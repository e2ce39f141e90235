"""Protobuf's wire format by hand: varints, declared messages, and a reader that takes any legal encoding of them.

The reader agrees with the generated classes (upb) about every input: fields in any order, the last of several
scalars wins, several pieces of an embedded message are merged, a member of a oneof drops the others, unknown fields
and known numbers of the wrong wire type are skipped, a map entry that holds unknown fields is left out (an
upb habit), nesting ends at 100. One thing is refused that upb accepts: groups, which proto3 cannot express.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["varint", "fixed64", "bytes", "string", "message", "repeated", "map"]

Parsed: TypeAlias = dict[int, Any]
"""A message that was read: tag to value; ``repeated`` is a list and ``map`` a dict of such messages."""

UNKNOWN = 0
"""Key under which a read message notes that it held fields nobody declared; no field has this tag."""

MAP_KEY, MAP_VALUE = 0x0A, 0x12
"""Tags of a map entry's two fields, fixed by the format."""

MAX_DEPTH = 100

_VARINT, _FIXED64, _DELIMITED = 0, 1, 2
_MASK64 = (1 << 64) - 1
_ONE_BYTE = tuple(bytes((number,)) for number in range(128))


class MalformedError(ValueError):
    """Bytes that no encoder writes."""


class Field(NamedTuple):
    """One declared field."""

    name: str
    number: int
    kind: Kind
    message: Message | None
    in_oneof: bool


class Message:
    """A declared message type: which tags it knows and what they hold."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[int, Field] = {}
        self.oneof: set[int] = set()

    def field(self, name: str, number: int, kind: Kind, message: Message | None = None, *, oneof: bool = False) -> int:
        """Declare a field and return its tag; the tags of all fields that we know fit in one byte.

        ``message`` is the embedded type, of a map the type of the values. A type has at most one oneof.
        """
        wire_type = {"varint": _VARINT, "fixed64": _FIXED64}.get(kind, _DELIMITED)
        tag = number << 3 | wire_type
        if kind == "map":
            entry = Message("")
            entry.field("key", 1, "string")
            entry.field("value", 2, "message", message)
            message = entry
        self.fields[tag] = Field(name, number, kind, message, oneof)
        if oneof:
            self.oneof.add(tag)
        return tag


def varint(number: int) -> bytes:
    """Write a non-negative number."""
    if number < 128:
        return _ONE_BYTE[number]
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    result.append(number)
    return bytes(result)


def delimited(tag: int, content: bytes) -> bytes:
    """Write a field that holds bytes, text or a message."""
    return b"%c%b%b" % (tag, varint(len(content)), content)


def parse(message: Message, data: bytes, start: int, end: int, into: Parsed, depth: int = MAX_DEPTH) -> Parsed:
    """Merge the message that lies at ``data[start:end]`` into ``into``; only leaves are copied.

    Raises:
        MalformedError: when the bytes are no such message.
    """
    if depth < 0:
        raise MalformedError("messages nested too deeply")
    fields, at = message.fields, start
    while at < end:
        field = fields.get(data[at])
        if field is not None:
            tag = data[at]  # a known field, tag as short as can be
            at += 1
        else:
            tag, at = _read_tag(data, at, end)
            field = fields.get(tag)
        if field is None:
            at = _skip(tag, data, at, end)
            into[UNKNOWN] = True
            continue
        if field.in_oneof:
            for other in message.oneof:
                if other != tag:
                    into.pop(other, None)
        if field.kind == "varint":
            into[tag], at = _read_varint(data, at, end)
        elif field.kind == "fixed64":
            into[tag], at = 0, _ahead(8, at, end)  # the one such field is a number in metadata, which nobody reads
        else:
            length, at = _read_length(data, at, end)
            _read_delimited(tag, field, data, (at, at + length), into, depth)
            at += length
    return into


def _read_delimited(tag: int, field: Field, data: bytes, span: tuple[int, int], into: Parsed, depth: int) -> None:
    start, end = span
    if field.message is None:
        content = data[start:end]
        into[tag] = _text(content) if field.kind == "string" else content
    elif field.kind == "message":
        parse(field.message, data, start, end, into.setdefault(tag, {}), depth - 1)
    elif field.kind == "repeated":
        into.setdefault(tag, []).append(parse(field.message, data, start, end, {}, depth - 1))
    else:
        entries = into.setdefault(tag, {})
        entry = parse(field.message, data, start, end, {}, depth - 1)
        if UNKNOWN not in entry:
            entries[entry.get(MAP_KEY, "")] = entry.get(MAP_VALUE, {})


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise MalformedError("a string that is not UTF-8") from None


def _read_varint(data: bytes, at: int, end: int, most: int = 10) -> tuple[int, int]:
    result = shift = 0
    for index in range(at, min(at + most, end)):
        byte = data[index]
        result |= (byte & 127) << shift
        if byte < 128:
            return result & _MASK64, index + 1
        shift += 7
    raise MalformedError("a varint that is cut off or too long")


def _read_tag(data: bytes, at: int, end: int) -> tuple[int, int]:
    tag, at = _read_varint(data, at, end, 5)
    if tag >> 32 or not tag >> 3:
        raise MalformedError(f"no field has the tag {tag}")
    return tag, at


def _read_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    length = data[at] if at < end else 128
    if length < 128:
        at += 1
    else:
        length, at = _read_varint(data, at, end, 5)
    if length > end - at:
        raise MalformedError(f"{length} bytes announced, {end - at} left")
    return length, at


def _ahead(count: int, at: int, end: int) -> int:
    if count > end - at:
        raise MalformedError(f"{count} bytes announced, {end - at} left")
    return at + count


def _skip(tag: int, data: bytes, at: int, end: int) -> int:
    match tag & 7:
        case 0:
            return _read_varint(data, at, end)[1]
        case 1:
            return _ahead(8, at, end)
        case 2:
            length, at = _read_length(data, at, end)
            return at + length
        case 5:
            return _ahead(4, at, end)
        case wire_type:
            raise MalformedError(f"field {tag >> 3} has the wire type {wire_type}")
