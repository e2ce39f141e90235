"""Frames of HTTP/2 (RFC 9113, sections 4 and 6): numbers, errors, and bytes of those that a server sends."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
DEFAULT_WINDOW = 65_535
MAX_WINDOW = (1 << 31) - 1
MAX_STREAM_ID = (1 << 31) - 1
MIN_FRAME_BYTES = 16_384
MAX_FRAME_BYTES = (1 << 24) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20


class Setting(IntEnum):
    """Settings (RFC 9113 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Reasons to end a stream or connection (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(Exception):  # noqa: N818 - the RFC calls it a connection error, a name that Python has taken
    """The peer broke the protocol for the whole connection (RFC 9113 5.4.1)."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


_U32 = struct.Struct(">I")
_HEADER = struct.Struct(">IBI")
_SETTING = struct.Struct(">HI")

unpack_header = _HEADER.unpack_from
"""``length << 8 | kind``, flags and stream id (with its reserved bit) of the frame at a position."""
unpack_u32 = _U32.unpack_from
_pack_header = _HEADER.pack


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    return _pack_header(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in pairs))


def settings_of(payload: bytes) -> Iterator[tuple[int, int]]:
    """The pairs of a SETTINGS frame whose length is a multiple of six."""
    yield from _SETTING.iter_unpack(payload)


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def go_away(last_id: int, code: int, text: str = "") -> bytes:
    """A GOAWAY frame with a text for whoever debugs the peer."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_id, code) + text.encode()[:256])


def check_setting(key: int, value: int) -> None:
    """Refuse values that RFC 9113 6.5.2 forbids.

    Raises:
        ConnectionFault: for such a value.
    """
    if key == Setting.ENABLE_PUSH and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
    if key == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
    if key == Setting.MAX_FRAME_SIZE and not MIN_FRAME_BYTES <= value <= MAX_FRAME_BYTES:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")


def unpad(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content of a padded payload starts and ends (RFC 9113 6.1).

    Raises:
        ConnectionFault: when the padding is as long as the payload or longer.
    """
    if start == end or start + 1 + data[start] > end:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return start + 1, end - data[start]
