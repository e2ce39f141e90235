"""The server side of HTTP/2 (RFC 9113) as far as gRPC needs it, without I/O and without a clock.

Bytes go into :meth:`Connection.receive`, events come out; answers go into :meth:`Connection.send_message` and
:meth:`Connection.send_trailers`, bytes come out of :meth:`Connection.data_to_send`.
"""

from __future__ import annotations

from typing import Final

from pointsman.extproc import frames, grpc_framing
from pointsman.extproc.flow import Http2Limits, Stream
from pointsman.extproc.frames import ConnectionFault, ErrorCode
from pointsman.extproc.heads import CallHead, HeadReader, well_formed_trailers
from pointsman.extproc.inbound import TINY, Inbound
from pointsman.extproc.session import Event, HalfClosed, Message, Reset, Session, StreamOpened

__all__ = ["Connection", "Event", "HalfClosed", "Http2Limits", "Message", "Reset", "StreamOpened"]

_DEFAULT_LIMITS: Final = Http2Limits()


class Connection(Inbound):
    """One HTTP/2 connection with gRPC calls on it.

    Nothing that comes in raises. When the peer breaks the protocol for good, :attr:`error` says why, the GOAWAY is
    among the bytes to send, and later input is ignored.
    """

    def __init__(self, limits: Http2Limits = _DEFAULT_LIMITS) -> None:
        super().__init__(limits)
        self._heads = HeadReader(limits.max_header_list)
        self._parts: list[bytes] = []  # of an incomplete frame
        self._held = 0
        self._need = len(frames.PREFACE)
        self._greeted = False
        self._block: bytearray | None = None  # header block that goes on in CONTINUATION
        self._block_id = self._block_flags = 0

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes from the peer.

        Args:
            data: as they came, cut anywhere.
            now: seconds of a steady clock, for the budgets against floods.
        """
        if self.error is not None:
            return []
        if self._held:
            # parts of a frame are joined once, not at each read: a large frame may trickle in
            self._parts.append(data)
            self._held += len(data)
            if self._held < self._need:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        self._now = now
        events: list[Event] = []
        self._events = events
        try:
            position = self._frames(data, 0 if self._greeted else self._preface(data))
        except ConnectionFault as error:
            self._fail(error)
            return events
        self._held = len(data) - position
        if self._held:
            self._parts.append(data[position:] if position else data)
        self._settle()
        self._events = []  # or the last messages would live as long as an idle connection
        return events

    def is_open(self, stream_id: int) -> bool:
        """Whether a stream can still be answered. Its :class:`Reset` may be among the events not handled yet."""
        return stream_id in self._streams

    def send_message(self, stream_id: int, data: bytes) -> bool:
        """Send a gRPC message, after the response's headers if it is the first. On a stream that is over, do nothing.

        Returns:
            False when the stream has just been reset because the peer does not read; no event tells that.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.trailers is not None or self._outbox.message(stream, data):
            return True
        self._reset_stream(stream, ErrorCode.ENHANCE_YOUR_CALM, tell=False)
        return False

    def send_trailers(self, stream_id: int, status: int, message: str = "") -> None:
        """End a stream with a gRPC status; after this the stream's events are at an end, too."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.trailers is None:
            self._end_call(stream, grpc_framing.trailers(status, message, only=not stream.answered))

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """End a stream at once."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._reset_stream(stream, code, tell=False)

    def pause(self) -> None:
        """The transport is full: keep answers back, counted against the limits, until :meth:`resume`."""
        self._outbox.paused = True

    def resume(self) -> None:
        self._outbox.paused = False
        self._settle()

    def data_to_send(self) -> bytes:
        """Everything that may go out now, joined; empty when there is nothing."""
        ready = self._outbox.ready
        if not ready:
            return b""
        data = b"".join(ready)
        ready.clear()
        return data

    # Frames

    def _preface(self, data: bytes) -> int:
        preface = frames.PREFACE
        if not preface.startswith(data[: len(preface)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2")
        self._greeted = len(data) >= len(preface)
        self._need = len(preface)
        return len(preface) if self._greeted else 0

    def _frames(self, data: bytes, position: int) -> int:
        """Handle every whole frame; answers where the rest starts."""
        if not self._greeted:
            return position
        end = len(data)
        unpack, handlers, max_frame = frames.unpack_header, self._HANDLERS, self.limits.max_frame
        while end - position >= 9:
            word, flags, stream_id = unpack(data, position)
            size, kind = word >> 8, word & 0xFF
            if size > max_frame:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            stop = position + 9 + size
            if stop > end:
                self._need = 9 + size
                return position
            stream_id &= 0x7FFFFFFF
            if (self._block is not None or not self._saw_settings) and not self._fits(kind, flags, stream_id):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of kind {kind} where another has to come")
            if kind == 0:
                self.on_data(data, position + 9, stop, flags, stream_id)
            elif kind < 10:
                handlers[kind](self, data, position + 9, stop, flags, stream_id)
            else:
                self._nuisance()  # RFC 9113 4.1: unknown kinds are ignored
            position = stop
        self._need = 9
        return position

    def _fits(self, kind: int, flags: int, stream_id: int) -> bool:
        if self._block is not None:
            return kind == frames.CONTINUATION and stream_id == self._block_id
        return kind == frames.SETTINGS and not flags & frames.ACK  # the first frame (RFC 9113 3.4)

    def _fail(self, error: ConnectionFault) -> None:
        self.error = error
        self._parts.clear()
        self._outbox.ready.append(frames.go_away(self._last_id, error.code, error.text))
        for stream in list(self._streams.values()):
            self._forget(stream)
            self._events.append(Reset(stream.id, error.code))

    # Calls

    def on_headers(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if flags & frames.PADDED:
            start, end = frames.unpad(data, start, end)
        if flags & frames.PRIORITY_FLAG:
            start += 5
            if start > end:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without the priority they announce")
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        self._check_block(end - start)
        if flags & frames.END_HEADERS:
            self._headers_done(data[start:end], flags, stream_id)
        else:
            self._block, self._block_id, self._block_flags = bytearray(data[start:end]), stream_id, flags

    def on_continuation(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        if end - start < TINY and not flags & frames.END_HEADERS:
            self._nuisance()
        block += data[start:end]
        self._check_block(len(block))
        if flags & frames.END_HEADERS:
            self._block = None
            self._headers_done(bytes(block), self._block_flags, stream_id)

    def _check_block(self, size: int) -> None:
        if size > self.limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not end")

    def _headers_done(self, block: bytes, flags: int, stream_id: int) -> None:
        head = self._heads.read(block)
        if stream_id > self._last_id:
            self._open(stream_id, head, flags)
            return
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._trailers(stream, head, flags)
        elif self._lately_closed(stream_id):
            self._crossing()  # trailers that crossed our end of the stream
        else:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} after {self._last_id}")

    def _open(self, stream_id: int, head: CallHead, flags: int) -> None:
        self._last_id = stream_id
        refused = len(self._streams) >= self.limits.max_streams
        if self._final_id is not None or refused or head.malformed:
            self._nuisance()
            self._remember(stream_id)
            code = ErrorCode.PROTOCOL_ERROR if head.malformed else ErrorCode.REFUSED_STREAM
            self._outbox.ready.append(frames.rst_stream(stream_id, code))
            return
        stream = Stream(stream_id, self.limits.stream_window, self._outbox.initial_window)
        self._streams[stream_id] = stream
        stream.remote_closed = bool(flags & frames.END_STREAM)
        if head.grpc_status:
            self._end_call(stream, grpc_framing.trailers(head.grpc_status, "the headers are too large", only=True))
        elif head.http_status != 200:
            self._end_call(stream, grpc_framing.http_answer(head.http_status))
        else:
            self._events.append(StreamOpened(stream_id, head.path, head.headers))
            if stream.remote_closed:
                self._events.append(HalfClosed(stream_id))

    def _trailers(self, stream: Stream, head: CallHead, flags: int) -> None:
        if stream.remote_closed:
            self._reset_stream(stream, ErrorCode.STREAM_CLOSED)
        elif not flags & frames.END_STREAM or not well_formed_trailers(head.headers):
            self._reset_stream(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            self._half_close(stream)

    _HANDLERS = (
        Inbound.on_data,
        on_headers,
        Session.on_priority,
        Session.on_reset,
        Session.on_settings,
        Session.on_push_promise,
        Session.on_ping,
        Session.on_go_away,
        Session.on_window_update,
        on_continuation,
    )
