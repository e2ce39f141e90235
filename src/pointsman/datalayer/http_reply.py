"""One answer of HTTP/1.1, put together from the pieces that a connection delivers. Pure.

What a server may answer with is all understood: a length, chunks, or an end by closing; gzip, though nobody asked for
it; interim answers. What it may not is refused early.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

from pointsman.errors import PointsmanError

MAX_HEAD_BYTES = 32 * 1024
MAX_CHUNKS = 20_000
"""Most pieces of one body; a page comes in one or a few, and a byte at a time would hold up the event loop."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: |\r|\Z)")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\n]*)?\Z")
_COMPRESSED = frozenset({b"gzip", b"x-gzip", b"deflate"})


class NotHttpError(PointsmanError):
    """The answer breaks HTTP, or is of a kind that nobody asked for."""

    reason = "not-http"


class TooLargeError(PointsmanError):
    """The body is larger than it may be, as sent or when unpacked."""

    reason = "too-large"


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    keep: bool
    """Whether the connection can be used again."""


class ReplyReader:
    """Puts one answer together from the pieces that a connection delivers. No I/O.

    Args:
        limit: bytes that a body may have, packed or unpacked.
    """

    __slots__ = ("_buffer", "_chunks", "_coding", "_keep", "_left", "_limit", "_mode", "_pieces", "_size", "_status")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._pieces: list[bytes] = []
        self._size = self._chunks = self._status = 0
        self._left = 0
        self._coding = b""
        self._keep = False
        self._mode: Callable[[bytes], Reply | None] = self._head

    def feed(self, data: bytes) -> Reply | None:
        """Take the next piece; the answer when it is complete.

        Raises:
            NotHttpError: this is no answer that can be read.
            TooLargeError: it is too long.
        """
        return self._mode(data)

    def eof(self) -> Reply | None:
        """The server closed: the answer if that was its end, None if it is cut off.

        Raises:
            NotHttpError: see :meth:`feed`.
            TooLargeError: see :meth:`feed`.
        """
        return self._finish() if self._mode == self._until_close else None

    def _head(self, data: bytes) -> Reply | None:
        buffer = self._buffer
        buffer += data
        while True:
            if not b"HTTP/1.".startswith(buffer[:7]):
                raise NotHttpError("the answer does not begin as HTTP does")
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(buffer) > MAX_HEAD_BYTES:
                    raise NotHttpError(f"the answer's head is longer than {MAX_HEAD_BYTES} bytes")
                return None
            head = bytes(buffer[:end])
            del buffer[: end + 4]
            if self._read_head(head):
                rest = bytes(buffer)
                buffer.clear()
                return self._mode(rest)

    def _read_head(self, head: bytes) -> bool:
        """Note what the head says of the body; False for an interim answer."""
        found = _STATUS.match(head)
        if found is None:
            raise NotHttpError("the answer's first line is not HTTP/1.1's")
        self._status = status = int(found[2])
        if status < 200:
            if status == 101:
                raise NotHttpError("the server changed the protocol")
            return False
        fields = _fields(head)
        self._keep = b"close" not in fields.get(b"connection", b"") and found[1] == b"1"
        self._coding = fields.get(b"content-encoding", b"")
        self._mode = self._choose(fields)
        return True

    def _choose(self, fields: dict[bytes, bytes]) -> Callable[[bytes], Reply | None]:
        if self._status in {204, 304}:
            return self._by_length
        coding = fields.get(b"transfer-encoding")
        if coding is not None:
            if coding != b"chunked":
                raise NotHttpError(f"transfer encoding {_shown(coding)} is not known")
            return self._by_chunks
        length = fields.get(b"content-length")
        if length is None:
            self._keep = False
            return self._until_close
        if not (length.isdigit() and len(length) < 16):
            raise NotHttpError(f"content-length {_shown(length)} is not a number")
        self._left = int(length)
        self._check(self._left)
        return self._by_length

    def _by_length(self, data: bytes) -> Reply | None:
        if len(data) > self._left:
            self._keep = False  # more than was announced: whatever follows is not to be trusted
            data = data[: self._left]
        self._pieces.append(data)
        self._left -= len(data)
        return None if self._left else self._finish()

    def _until_close(self, data: bytes) -> Reply | None:
        self._size += len(data)
        self._check(self._size)
        self._pieces.append(data)
        return None

    def _by_chunks(self, data: bytes) -> Reply | None:
        buffer = self._buffer
        buffer += data
        while True:
            if self._left:
                if not buffer:
                    return None
                # a chunk and the line end behind it, as far as they are here
                piece = bytes(buffer[: self._left])
                del buffer[: len(piece)]
                self._left -= len(piece)
                self._pieces.append(piece)
                if self._left:
                    return None
                _drop_line_end(self._pieces)
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > MAX_HEAD_BYTES:
                    raise NotHttpError("a chunk's first line is too long")
                return None
            found = _CHUNK.match(buffer[:end])
            if found is None:
                raise NotHttpError("a chunk does not begin with its length")
            del buffer[: end + 2]
            size = int(found[1], 16)
            if not size:
                self._mode = self._trailers
                return self._trailers(b"")
            self._count(size)

    def _count(self, size: int) -> None:
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise NotHttpError(f"the body comes in more than {MAX_CHUNKS} pieces")
        self._size += size
        self._check(self._size)
        self._left = size + 2

    def _trailers(self, data: bytes) -> Reply | None:
        buffer = self._buffer
        buffer += data
        while (end := buffer.find(b"\r\n")) > 0:
            del buffer[: end + 2]
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise NotHttpError("a trailer is too long")
            return None
        self._keep = self._keep and len(buffer) == 2
        return self._finish()

    def _finish(self) -> Reply:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if self._coding and self._coding != b"identity" and body:
            body = self._unpack(body)
        return Reply(self._status, body, self._keep)

    def _unpack(self, body: bytes) -> bytes:
        if self._coding not in _COMPRESSED:
            raise NotHttpError(f"content encoding {_shown(self._coding)} is not known")
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            plain = unpacker.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise NotHttpError(f"the body is not {_shown(self._coding)}: {error}") from None
        self._check(len(plain))
        if not unpacker.eof:
            raise NotHttpError("the packed body is cut off")
        return plain

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLargeError(f"larger than {self._limit} bytes")


def _fields(head: bytes) -> dict[bytes, bytes]:
    """Header fields, names and values in lower case. Of a field given twice the last counts."""
    fields = {}
    for line in head.lower().split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name] = value.strip(b" \t")
    return fields


def _drop_line_end(pieces: list[bytes]) -> None:
    """Take a chunk's line end off the pieces; it may be spread over the last two.

    Raises:
        NotHttpError: if there is none.
    """
    end = pieces.pop()
    if len(end) < 2 and pieces:
        end = pieces.pop() + end
    if not end.endswith(b"\r\n"):
        raise NotHttpError("a chunk does not end where it should")
    pieces.append(end[:-2])


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("latin-1"))
