"""Heads of calls: header blocks decoded, judged and remembered."""

from __future__ import annotations

import msgspec

from pointsman.extproc.frames import ConnectionFault, ErrorCode
from pointsman.extproc.grpc_framing import Status
from pointsman.extproc.hpack import Decoder, Header, HeaderListTooLargeError, HpackError

_CACHED = 256


class CallHead(msgspec.Struct, frozen=True):
    """The head of a call.

    Attributes:
        path: ``/package.Service/Method``.
        headers: all headers, pseudo headers included.
        malformed: breaks RFC 9113 8.1.1: a stream error, whatever it asks for.
        http_status: not 200 when it is no gRPC call: the HTTP status that answers it.
        grpc_status: not 0 when the call is refused for its head.
    """

    path: str = ""
    headers: tuple[Header, ...] = ()
    malformed: bool = False
    http_status: int = 200
    grpc_status: Status = Status.OK


TOO_LARGE = CallHead(grpc_status=Status.RESOURCE_EXHAUSTED)
"""Stands for a head over the limit."""

_PSEUDO = {b":method", b":scheme", b":path", b":authority", b":protocol"}
_FORBIDDEN = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_NAME_BYTES = bytes(set(range(0x21, 0x7F)) - set(range(0x41, 0x5B)))
_BAD_VALUE_BYTES = b"\0\r\n"


def call_head(headers: tuple[Header, ...]) -> CallHead:
    """Judge the headers that open a stream."""
    pseudo = {name: value for name, value in headers if name.startswith(b":")}
    needed = pseudo.get(b":method") and pseudo.get(b":scheme") and pseudo.get(b":path")
    if not needed or not _well_formed(headers, len(pseudo)) or not _PSEUDO.issuperset(pseudo):
        return CallHead(headers=headers, malformed=True)
    content_type = next((value for name, value in headers if name == b"content-type"), b"").lower()
    status = 200
    if pseudo[b":method"] != b"POST":
        status = 405
    elif not content_type.startswith(b"application/grpc") or content_type[16:17] not in {b"", b"+", b";"}:
        status = 415
    return CallHead(pseudo[b":path"].decode("latin-1"), headers, http_status=status)


def _well_formed(headers: tuple[Header, ...], pseudo: int) -> bool:
    """Pseudo headers first and once each, no upper case, nothing that belongs to a connection (RFC 9113 8.2, 8.3)."""
    return well_formed_trailers(headers[pseudo:]) and all(name.startswith(b":") for name, _ in headers[:pseudo])


def well_formed_trailers(headers: tuple[Header, ...]) -> bool:
    """Whether the fields may stand behind pseudo headers or a body."""
    for name, value in headers:
        if not name or name in _FORBIDDEN or name.translate(None, _NAME_BYTES) or name.startswith(b":"):
            return False
        if value.translate(None, _BAD_VALUE_BYTES) != value or (name == b"te" and value != b"trailers"):
            return False
    return True


class HeadReader:
    """Reads the header blocks of one connection, in order.

    Args:
        max_list_bytes: largest list of decoded headers.
    """

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = Decoder(max_list_bytes=max_list_bytes)
        self._known: dict[bytes, CallHead] = {}
        self._generation = 0

    def read(self, block: bytes) -> CallHead:
        """The head in a block.

        A block that left the table alone means the same as long as the table stays, so it is looked up, not decoded:
        proxies send the same few bytes with each call once the table has settled.

        Raises:
            ConnectionFault: COMPRESSION_ERROR when it cannot be decoded.
        """
        head = self._known.get(block)
        if head is not None:
            return head
        decoder = self._decoder
        try:
            head = call_head(decoder.decode(block))
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        except HeaderListTooLargeError:
            head = TOO_LARGE
        if decoder.generation != self._generation:
            self._generation = decoder.generation
            self._known.clear()
        else:
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[block] = head
        return head
