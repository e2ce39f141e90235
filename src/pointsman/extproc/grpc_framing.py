"""gRPC over HTTP/2: length-prefixed messages, and statuses."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from urllib.parse import quote

from pointsman.extproc.hpack import Header, encode

PREFIX_BYTES = 5
_PREFIX = struct.Struct(">BI").unpack_from

RESPONSE_HEAD = encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
"""Header block before the first message of an answer."""


class Status(IntEnum):
    """gRPC status codes that we send."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class GrpcError(Exception):
    """The call cannot go on; it is answered with a status."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@lru_cache(maxsize=64)
def trailers(status: int, text: str = "", *, only: bool = False) -> bytes:
    """Header block that ends a call; ``only`` when nothing was sent before (trailers-only answer)."""
    headers: list[Header] = [(b":status", b"200"), (b"content-type", b"application/grpc")] if only else []
    headers.append((b"grpc-status", b"%d" % status))
    if text:
        headers.append((b"grpc-message", quote(text[:1024], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}").encode()))
    return encode(headers)


def take_messages(data: bytes | bytearray, start: int, end: int, limit: int) -> tuple[list[bytes], int, int]:
    """Cut messages off a run of bytes, copying each once.

    Returns:
        The messages, where the rest starts, and the bytes that this rest must grow to before a next look.

    Raises:
        GrpcError: UNIMPLEMENTED for a compressed message, as we offer no encoding but identity; RESOURCE_EXHAUSTED for
            one over ``limit`` bytes.
    """
    messages: list[bytes] = []
    view = memoryview(data)
    while end - start >= PREFIX_BYTES:
        compressed, length = _PREFIX(data, start)
        if compressed:
            raise GrpcError(Status.UNIMPLEMENTED, "messages must not be compressed")
        if length > limit:
            raise GrpcError(Status.RESOURCE_EXHAUSTED, f"a message of {length} bytes is over the limit of {limit}")
        stop = start + PREFIX_BYTES + length
        if stop > end:
            return messages, start, PREFIX_BYTES + length
        messages.append(bytes(view[start + PREFIX_BYTES : stop]))
        start = stop
    return messages, start, PREFIX_BYTES


def http_answer(status: int) -> bytes:
    """Header block of a plain HTTP answer without a body."""
    return encode([(b":status", b"%d" % status), (b"content-length", b"0")])
