"""Bodies on their way through us: the pieces in which they go on, and the limits on what is taken."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.api.request import RequestHead
from pointsman.errors import BodyTooLargeError
from pointsman.extproc.wire import BodyMode, Chunk

CHUNK_BYTES = 62_000
"""Largest piece of a body in one reply; proxies refuse gRPC messages not far above it."""

WHOLE = (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)
"""Modes in which a body comes in one message."""

UNSEEN = (BodyMode.NONE, BodyMode.STREAMED)
"""Modes of a request in which the pick is made without its body: the proxy does not wait with choosing a host."""


def chunks(data: bytes, *, last: bool, response: bool) -> Iterator[Chunk]:
    """A body, or a part of one, in pieces that a proxy takes (FULL_DUPLEX_STREAMED)."""
    if not data:
        # an empty piece only says that the body is over
        if last:
            yield Chunk(b"", end_of_stream=True, response=response)
        return
    for start in range(0, len(data), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        yield Chunk(data[start:end], end_of_stream=last and end >= len(data), response=response)


class RequestBodyBuffer:
    """Collects a request's body up to a limit."""

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._parts: list[bytes] = []

    def announce(self, head: RequestHead) -> None:
        """Refuse at the head a body that is announced as too large.

        Raises:
            BodyTooLargeError: it is.
        """
        length = number(head.headers.get("content-length", ""))
        if length > self._limit:
            raise self._too_large()

    def add(self, data: bytes) -> None:
        """Take a piece.

        Raises:
            BodyTooLargeError: it is one too many.
        """
        self._size += len(data)
        if self._size > self._limit:
            self._parts.clear()
            raise self._too_large()
        self._parts.append(data)

    def take(self) -> bytes:
        """All of it, and forget it."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the request body is larger than {self._limit} bytes")


def number(text: str) -> int:
    """A decimal number out of a header, 0 when it is none."""
    return int(text) if text.isdecimal() and len(text) < 20 else 0
