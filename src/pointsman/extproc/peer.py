"""One accepted connection: bytes between an asyncio transport and :class:`pointsman.extproc.http2.Connection`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pointsman.extproc.grpc_framing import Status
from pointsman.extproc.http2 import Connection, HalfClosed, Http2Limits, Message, StreamOpened
from pointsman.extproc.services import Call, Service

_HIGH_WATER, _LOW_WATER = 512 * 1024, 128 * 1024
_GREETING_SECONDS = 10.0
_SILENT_SECONDS = 60.0
_PONG_SECONDS = 20.0
_CLOSING_SECONDS = 5.0


class CallReply:
    """The way back of one call."""

    __slots__ = ("_id", "_peer")

    def __init__(self, peer: Peer, stream_id: int) -> None:
        self._peer, self._id = peer, stream_id

    def send(self, data: bytes) -> bool:
        peer = self._peer
        if not peer.connection.send_message(self._id, data):
            peer.over(self._id)
            return False
        if not peer.in_read:
            peer.flush_soon()
        return True

    def finish(self, status: int = 0, text: str = "") -> None:
        peer = self._peer
        peer.connection.send_trailers(self._id, status, text)
        peer.over(self._id)
        if not peer.in_read:
            peer.flush_soon()


class Peer(asyncio.Protocol):
    """Carries the calls of one connection.

    Args:
        services: what to call, by path.
        limits: what the peer may ask of us.
        peers: the set of all connections, to which this one belongs while it is open.
        alpn: whether the peer must have agreed on ``h2`` (with TLS).
    """

    def __init__(self, services: Mapping[str, Service], limits: Http2Limits, peers: set[Peer], *, alpn: bool) -> None:
        self._services, self._peers, self._alpn = services, peers, alpn
        self.connection = Connection(limits)
        self.in_read = False
        self._flush_due = self._asked = False
        self._calls: dict[int, Call] = {}
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self._made = self._last_read = self._loop.time()
        self._closing_since: float | None = None

    @property
    def open_calls(self) -> int:
        """Calls that have not ended."""
        return len(self._calls)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._alpn and transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)
        self._peers.add(self)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._last_read = now = self._loop.time()
        calls = self._calls
        self.in_read = True
        for event in self.connection.receive(data, now):
            if isinstance(event, Message):
                call = calls.get(event.id)
                if call is not None:
                    call.message(event.data)
            elif isinstance(event, StreamOpened):
                self._open(event)
            elif isinstance(event, HalfClosed):
                call = calls.get(event.id)
                if call is not None:
                    call.half_closed()
            else:
                self.over(event.id)
        self.in_read = False
        self.flush()

    def eof_received(self) -> bool:
        return False  # a peer that closes its side only has nobody to read our answers either

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.discard(self)
        for stream_id in list(self._calls):
            self.over(stream_id)

    def pause_writing(self) -> None:
        # who does not read is not read from: answers stay within their limits
        self.connection.pause()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.connection.resume()
        self.flush()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # What the server and its calls use

    def over(self, stream_id: int, *, shutdown: bool = False) -> None:
        """A call has ended: tell it, once."""
        call = self._calls.pop(stream_id, None)
        if call is not None:
            call.over(shutdown=shutdown)

    def flush_soon(self) -> None:
        """Write at the end of this turn of the loop, with whatever else will have come together by then."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is ready; close when nothing more will come."""
        self._flush_due = False
        data = self.connection.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if self.connection.finished and self._closing_since is None:
            self._closing_since = self._loop.time()
            self._transport.close()

    def leave(self) -> None:
        """Begin to say good-bye: calls under way may end, new ones have to go elsewhere."""
        self.connection.go_away()
        self.flush()

    def cut(self) -> None:
        """End the calls under way, and the connection."""
        for stream_id in list(self._calls):
            self.connection.reset(stream_id)
            self.over(stream_id, shutdown=True)
        self.connection.go_away(final=True)
        self.flush()

    def abort(self) -> None:
        """Close without a word."""
        self._transport.abort()

    def tick(self, now: float, idle_seconds: float) -> None:
        """Look for peers that never greeted, went silent or do not let themselves be closed."""
        silent = now - self._last_read
        if self._closing_since is not None:
            patience, waited = _CLOSING_SECONDS, now - self._closing_since
        elif not self.connection.greeted:
            patience, waited = _GREETING_SECONDS, now - self._made  # however slowly it trickles
        else:
            quiet = _SILENT_SECONDS if self._calls else idle_seconds
            patience, waited = quiet + _PONG_SECONDS, silent
            if silent <= quiet:
                self._asked = False
            elif not self._asked:
                self._asked = True
                self._ask()
        if waited > patience:
            self._transport.abort()

    def _ask(self) -> None:
        """A sign of life from a peer with calls; good-bye to one without."""
        if self._calls:
            self.connection.ping()
        else:
            self.connection.go_away()
        self.flush()

    def _open(self, event: StreamOpened) -> None:
        if not self.connection.is_open(event.id):
            return  # reset in the same read: nobody waits for a decision
        service = self._services.get(event.path)
        if service is None:
            self.connection.send_trailers(event.id, Status.UNIMPLEMENTED, f"no method {event.path}")
        else:
            self._calls[event.id] = service(CallReply(self, event.id))
