"""What both halves of an HTTP/2 connection share: its streams, its state, and the frames that steer it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pointsman.extproc import frames
from pointsman.extproc.flow import Budget, Http2Limits, Outbox, Stream
from pointsman.extproc.frames import ConnectionFault, ErrorCode, Setting
from pointsman.extproc.hpack import Header

_REMEMBERED = 1024
_MAX_SETTINGS = 32
_UPDATES_PER_FRAME = 10
_FREE = 10_000
"""Frames of a kind that a connection may always send before they are compared with what they should go with."""
_DRAIN_PING = b"pntsdrai"


class StreamOpened(msgspec.Struct, frozen=True, gc=False):
    """A call began."""

    id: int
    path: str
    headers: tuple[Header, ...]


class Message(msgspec.Struct, frozen=True, gc=False):
    """A whole gRPC message came in."""

    id: int
    data: bytes


class HalfClosed(msgspec.Struct, frozen=True, gc=False):
    """The peer sends no more; it still listens."""

    id: int


class Reset(msgspec.Struct, frozen=True, gc=False):
    """The stream is over before its end, by the peer's wish or its fault; nothing can be sent any more."""

    id: int
    code: int


Event: TypeAlias = StreamOpened | Message | HalfClosed | Reset


class Session:
    """Streams and control frames of the server's side of a connection.

    Args:
        limits: what the peer may ask of us.

    Attributes:
        error: why the connection had to end, None while it is sound.
    """

    def __init__(self, limits: Http2Limits) -> None:
        self.limits = limits
        self.error: ConnectionFault | None = None
        self._outbox = Outbox(limits)
        self._streams: dict[int, Stream] = {}
        self._events: list[Event] = []
        self._last_id = 0
        self._now = 0.0
        self._resets, self._nuisances = Budget(*limits.resets), Budget(*limits.nuisances)
        self._updates = self._crossings = 0
        self._buffered = 0  # bytes in inboxes
        # ids of streams that were closed lately, in two generations so that forgetting costs nothing
        self._closed: set[int] = set()
        self._closed_before: set[int] = set()
        self._final_id: int | None = None  # of our GOAWAY
        self._peer_leaves = self._saw_settings = self._said_goodbye = False
        self._outbox.ready.append(self._greeting())

    @property
    def greeted(self) -> bool:
        """Whether the peer has shown itself to speak HTTP/2."""
        return self._saw_settings

    @property
    def open_streams(self) -> int:
        """Streams that have not ended."""
        return len(self._streams)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen: close the transport once :meth:`Connection.data_to_send` is out."""
        leaving = self._final_id is not None or self._peer_leaves
        return self.error is not None or (leaving and not self._streams)

    def ping(self) -> None:
        """Ask the peer for a sign of life; any bytes that come in are one."""
        self._outbox.ready.append(frames.frame(frames.PING, 0, 0, b"pntsping"))

    def go_away(self, *, final: bool = False) -> None:
        """Take no new streams; those under way go on.

        The peer may have opened streams that have not reached us yet. So it is first told that we will leave, and
        which stream was the last one only when it has answered a PING (RFC 9113 6.8); ``final`` leaves that out.
        """
        if self._final_id is not None or self.error is not None:
            return
        if final:
            self._final_id = self._last_id
            self._outbox.ready.append(frames.go_away(self._last_id, ErrorCode.NO_ERROR))
        elif not self._said_goodbye:
            self._said_goodbye = True
            goodbye = frames.go_away(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
            self._outbox.ready += (goodbye, frames.frame(frames.PING, 0, 0, _DRAIN_PING))

    def _greeting(self) -> bytes:
        limits = self.limits
        pairs = [
            (Setting.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (Setting.INITIAL_WINDOW_SIZE, limits.stream_window),
            (Setting.MAX_FRAME_SIZE, limits.max_frame),
            (Setting.MAX_HEADER_LIST_SIZE, limits.max_header_list),
        ]
        self._window = max(limits.connection_window, frames.DEFAULT_WINDOW)
        wider = self._window - frames.DEFAULT_WINDOW
        return frames.settings(pairs) + (frames.window_update(0, wider) if wider else b"")

    def _nuisance(self, cost: float = 1) -> None:
        if not self._nuisances.spend(self._now, cost):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _crossing(self) -> None:
        """A frame for a stream that has just ended: each stream may see a few, when both sides end it."""
        self._crossings += 1
        if self._crossings > _FREE + self._last_id:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames on closed streams")

    # Streams

    def _forget(self, stream: Stream) -> None:
        """The stream is closed."""
        del self._streams[stream.id]
        if stream.pending:
            self._outbox.drop(stream)
        self._drop_inbox(stream)
        self._remember(stream.id)

    def _drop_inbox(self, stream: Stream) -> None:
        if stream.inbox is not None:
            self._buffered -= len(stream.inbox)
            stream.inbox = None

    def _remember(self, stream_id: int) -> None:
        self._closed.add(stream_id)
        if len(self._closed) >= _REMEMBERED:
            self._closed, self._closed_before = set(), self._closed

    def _reset_stream(self, stream: Stream, code: int, *, tell: bool = True) -> None:
        """End a stream from our side at once; ``tell`` the application, too."""
        self._forget(stream)
        self._outbox.ready.append(frames.rst_stream(stream.id, code))
        if tell:
            self._events.append(Reset(stream.id, code))

    def _all_sent(self, stream: Stream) -> None:
        """Our side has ended; without the peer's end it is told that we do not need the rest (RFC 9113 8.1)."""
        self._forget(stream)
        if not stream.remote_closed:
            self._outbox.ready.append(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))

    def _settle(self) -> None:
        """Send what waits as far as it may go, and close streams that are through."""
        self._outbox.flush()
        for stream in self._outbox.done:
            if stream.id in self._streams:
                self._all_sent(stream)
        self._outbox.done.clear()

    def _lately_closed(self, stream_id: int) -> bool:
        return stream_id in self._closed or stream_id in self._closed_before

    def _known(self, stream_id: int, what: str) -> Stream | None:
        """The open stream of this id, None if it is closed; frames on streams that were never opened are errors."""
        stream = self._streams.get(stream_id)
        if stream is None and (not stream_id & 1 or stream_id > self._last_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")
        return stream

    # Frames that steer. They get the buffer, where their payload starts and ends in it, their flags and stream id.

    def on_settings(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        size = end - start
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if size % 6 or (flags & frames.ACK and size):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if size > _MAX_SETTINGS * 6:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
        # a new initial window touches every stream
        self._nuisance(1 + len(self._streams) / 16 if size and self._saw_settings else 1)
        if flags & frames.ACK:
            return
        self._saw_settings = True
        for key, value in frames.settings_of(data[start:end]):
            frames.check_setting(key, value)
            if key == Setting.INITIAL_WINDOW_SIZE:
                self._change_initial_window(value)
            elif key == Setting.MAX_FRAME_SIZE:
                self._outbox.max_frame = min(value, self.limits.max_frame)
            elif key == Setting.HEADER_TABLE_SIZE and value < 4096:
                self._outbox.shrink_table = True
        self._outbox.ready.append(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _change_initial_window(self, value: int) -> None:
        change = value - self._outbox.initial_window
        self._outbox.initial_window = value
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is over 2^31-1")
            self._outbox.widened(stream)

    def on_ping(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if end - start != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")
        self._nuisance()
        payload = data[start:end]
        if not flags & frames.ACK:
            self._outbox.ready.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _DRAIN_PING:
            self.go_away(final=True)

    def on_go_away(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if end - start < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        self._nuisance()
        self._peer_leaves = True

    def on_window_update(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if end - start != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        self._updates += 1
        if self._updates > _FREE + _UPDATES_PER_FRAME * (self._outbox.data_frames + self._last_id):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "far more WINDOW_UPDATEs than data")
        increment = frames.unpack_u32(data, start)[0] & frames.MAX_WINDOW
        if not stream_id:
            self._widen_connection(increment)
            return
        stream = self._known(stream_id, "WINDOW_UPDATE")
        if stream is None:
            return
        if not increment:
            self._reset_stream(stream, ErrorCode.PROTOCOL_ERROR)
        elif stream.send_window + increment > frames.MAX_WINDOW:
            self._reset_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            stream.send_window += increment
            self._outbox.widened(stream)

    def _widen_connection(self, increment: int) -> None:
        if not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self._outbox.window += increment
        if self._outbox.window > frames.MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is over 2^31-1")

    def on_reset(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if end - start != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        stream = self._known(stream_id, "RST_STREAM")
        if stream is None:
            self._crossing()
            return
        if not stream.answered and not self._resets.spend(self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams opened only to be reset")
        self._forget(stream)
        self._events.append(Reset(stream_id, frames.unpack_u32(data, start)[0]))

    def on_priority(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
        self._nuisance()
        stream = self._streams.get(stream_id)
        if end - start != 5 and stream is not None:
            self._reset_stream(stream, ErrorCode.FRAME_SIZE_ERROR)

    def on_push_promise(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client must not push")
