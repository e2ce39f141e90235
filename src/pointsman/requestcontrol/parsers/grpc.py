"""vLLM's gRPC bodies (``vllm.grpc.engine.VllmEngine``): the few fields a decision needs, read by hand.

A body is one message behind five bytes: a flag for compression and the length. Of ``GenerateRequest`` and
``EmbedRequest`` we read ``tokenized`` (2), ``text`` (3), ``sampling_params.max_tokens`` (4.8) and ``stream`` (5). They
name no model, so that a fleet behind one pool must serve a single one.
"""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.errors import BadRequestError
from pointsman.requestcontrol.parsers.body import Common, Parsed

SERVICE = "/vllm.grpc.engine.VllmEngine"

_FRAME_BYTES = 5
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def parse_generate(body: bytes) -> Parsed:
    """A prompt as token ids or text."""
    message = _message(body)
    if message is None:
        return Parsed(Common(), b"")
    text, ids, max_tokens, stream = b"", None, None, False
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            ids = _token_ids(value)
        elif number == 3 and isinstance(value, bytes):
            text = value
        elif number == 4 and isinstance(value, bytes):
            max_tokens = next((n for field, n in _fields(value) if field == 8 and isinstance(n, int)), None)
        elif number == 5:
            stream = bool(value)
    return Parsed(Common(stream=stream), b"" if ids else text, ids or None, max_tokens)


def parse_embed(body: bytes) -> Parsed:
    """A prompt of which no token comes back."""
    return parse_generate(body)._replace(max_tokens=0)


def _message(body: bytes) -> bytes | None:
    """The first message of a body; None when it is compressed, which only the model server undoes."""
    if len(body) < _FRAME_BYTES or body[0] > 1:
        raise _invalid("no message")
    end = _FRAME_BYTES + int.from_bytes(body[1:_FRAME_BYTES], "big")
    if end > len(body):
        raise _invalid("the message is cut off")
    return None if body[0] else body[_FRAME_BYTES:end]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _read_varint(data, at)
            yield tag >> 3, number
            continue
        if kind == _DELIMITED:
            size, at = _read_varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise _invalid("not a protobuf message")
        if at + size > len(data):
            raise _invalid("the message is cut off")
        yield tag >> 3, data[at : at + size]
        at += size


def _token_ids(tokenized: bytes) -> tuple[int, ...]:
    """``input_ids`` (2), packed or one by one."""
    ids: list[int] = []
    for number, value in _fields(tokenized):
        if number != 2:
            continue
        if isinstance(value, int):
            ids.append(value & 0xFFFFFFFF)
        else:
            ids += _packed(value)
    return tuple(ids)


def _packed(data: bytes) -> list[int]:
    if data and data[-1] > 127:
        raise _invalid("a number is cut off")
    ids: list[int] = []
    add, rest = ids.append, iter(data)
    for first in rest:
        if first < 128:
            add(first)
            continue
        second = next(rest)
        if second < 128:
            add(first & 127 | second << 7)
            continue
        number, shift, byte = first & 127 | (second & 127) << 7, 14, next(rest)
        while byte > 127:
            number |= (byte & 127) << shift
            shift += 7
            byte = next(rest)
        add((number | byte << shift) & 0xFFFFFFFF)
    return ids


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    for byte in data[at : at + _MAX_VARINT_BYTES]:
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise _invalid("a number is cut off")


def _invalid(why: str) -> BadRequestError:
    return BadRequestError(f"the body is no valid gRPC request: {why}")


PARSERS = {f"{SERVICE}/Generate": parse_generate, f"{SERVICE}/Embed": parse_embed}
"""Path suffix → parser."""
