"""Header compression of HTTP/2 (RFC 7541): a whole decoder, and as much of an encoder as answers need."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TypeAlias

from pointsman.extproc.huffman import HuffmanError
from pointsman.extproc.huffman import decode as huffman_decode

Header: TypeAlias = tuple[bytes, bytes]
"""Name and value."""

ENTRY_OVERHEAD = 32
"""Octets that each header counts for besides its name and value (RFC 7541 4.1, RFC 9113 6.5.2)."""

_MAX_INTEGER = 1 << 28
"""No length, index or table size that we accept comes near; larger numbers are refused while they are read."""

STATIC_TABLE: tuple[Header, ...] = (
    *((b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html")),
    *((b":scheme", b"http"), (b":scheme", b"https")),
    *((b":status", status) for status in b"200 204 206 304 400 404 500".split()),
    *((b"accept-charset", b""), (b"accept-encoding", b"gzip, deflate")),
    *(
        (name, b"")
        for name in (
            b"accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control "
            b"content-disposition content-encoding content-language content-length content-location content-range "
            b"content-type cookie date etag expect expires from host if-match if-modified-since if-none-match "
            b"if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate "
            b"proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security "
            b"transfer-encoding user-agent vary via www-authenticate"
        ).split()
    ),
)
"""Entries 1 to 61 (RFC 7541, appendix A)."""

_STATIC_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(STATIC_TABLE, 1)))}
_STATIC_PAIRS = {pair: index for index, pair in enumerate(STATIC_TABLE, 1)}


class HpackError(ValueError):
    """A block that cannot be decoded: the connection is lost (COMPRESSION_ERROR, RFC 9113 4.3)."""


class HeaderListTooLargeError(Exception):
    """A list over the limit. The block was decoded to its end, so the connection lives on (RFC 9113 10.5.1)."""


class Decoder:
    """Decodes the header blocks of one connection, in order.

    Args:
        max_table_bytes: our SETTINGS_HEADER_TABLE_SIZE, the most that the dynamic table may take.
        max_list_bytes: our SETTINGS_MAX_HEADER_LIST_SIZE, counted as RFC 9113 6.5.2 does.

    Attributes:
        generation: counts changes of the dynamic table. A block that was decoded without a change means the same
            again as long as the generation stays.
        entries: the dynamic table, newest first.
        table_bytes: its size as RFC 7541 4.1 counts.
    """

    def __init__(self, max_table_bytes: int = 4096, max_list_bytes: int = 16 * 1024) -> None:
        self._settings_limit = self._limit = max_table_bytes
        self._max_list_bytes = max_list_bytes
        self.entries: deque[Header] = deque()
        self.table_bytes = self.generation = 0

    def decode(self, block: bytes) -> tuple[Header, ...]:
        """The headers of a block.

        Raises:
            HpackError: when the block breaks RFC 7541.
            HeaderListTooLargeError: when the list is over the limit; the table is as if it had been accepted.
        """
        headers: list[Header] = []
        room = self._max_list_bytes
        position, size, fields_seen = 0, len(block), False
        while position < size:
            first = block[position]
            if first & 0xE0 == 0x20:
                if fields_seen:
                    raise HpackError("a table size update after a field")  # 4.2
                position = self._resize(block, position)
                continue
            fields_seen = True
            if first & 0x80:
                index, position = _integer(block, position, 7)
                header = self._entry(index)
            else:
                header, position = self._literal(block, position, first)
            room -= len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
            if room >= 0:
                headers.append(header)
        if room < 0:
            raise HeaderListTooLargeError
        return tuple(headers)

    def _literal(self, block: bytes, position: int, first: int) -> tuple[Header, int]:
        index, position = _integer(block, position, 6 if first & 0x40 else 4)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        header = (name, value)
        if first & 0x40:
            self._add(header)
        return header, position

    def _entry(self, index: int) -> Header:
        if 0 < index <= 61:
            return STATIC_TABLE[index - 1]
        if 61 < index <= 61 + len(self.entries):
            return self.entries[index - 62]
        raise HpackError(f"no entry {index}")

    def _add(self, header: Header) -> None:
        self.generation += 1
        size = len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
        self._evict(self._limit - size)
        if size <= self._limit:  # a larger one just empties the table (4.4)
            self.entries.appendleft(header)
            self.table_bytes += size

    def _resize(self, block: bytes, position: int) -> int:
        limit, position = _integer(block, position, 5)
        if limit > self._settings_limit:
            raise HpackError(f"table size {limit} over the limit")  # 6.3
        self.generation += 1
        self._limit = limit
        self._evict(limit)
        return position

    def _evict(self, room: int) -> None:
        while self.entries and self.table_bytes > room:
            name, value = self.entries.pop()
            self.table_bytes -= len(name) + len(value) + ENTRY_OVERHEAD


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """A number and the position behind it (section 5.1)."""
    mask = (1 << prefix) - 1
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in range(0, 35, 7):
        if position >= len(block):
            raise HpackError("a number is cut off")
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if value > _MAX_INTEGER:
            break
        if byte < 0x80:
            return value, position
    raise HpackError("a number is too large")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """A string literal and the position behind it (section 5.2)."""
    if position >= len(block):
        raise HpackError("a string is missing")
    coded = block[position] & 0x80
    length, position = _integer(block, position, 7)
    end = position + length
    if end > len(block):
        raise HpackError("a string is cut off")
    data = block[position:end]
    if not coded:
        return data, end
    try:
        return huffman_decode(data), end
    except HuffmanError as error:
        raise HpackError(str(error)) from None


def encode(headers: Iterable[Header]) -> bytes:
    """A block that leaves the peer's table alone: indices of the static table, else literals without indexing."""
    parts = []
    for name, value in headers:
        pair = _STATIC_PAIRS.get((name, value))
        if pair is not None:
            parts.append(_number(pair, 7, 0x80))
            continue
        index = _STATIC_NAMES.get(name, 0)
        parts.append(_number(index, 4, 0))
        if not index:
            parts += (_number(len(name), 7, 0), name)
        parts += (_number(len(value), 7, 0), value)
    return b"".join(parts)


def _number(value: int, prefix: int, pattern: int) -> bytes:
    mask = (1 << prefix) - 1
    if value < mask:
        return bytes((pattern | value,))
    out = bytearray((pattern | mask,))
    value -= mask
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
