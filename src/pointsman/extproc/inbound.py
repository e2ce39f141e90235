"""What a client sends on its streams: DATA under flow control, cut into messages, and the ends of calls."""

from __future__ import annotations

from pointsman.extproc import frames, grpc_framing
from pointsman.extproc.flow import Stream
from pointsman.extproc.frames import ConnectionFault, ErrorCode
from pointsman.extproc.grpc_framing import GrpcError, Status
from pointsman.extproc.session import HalfClosed, Message, Reset, Session

TINY = 64
"""A frame of less than this that completes nothing is a nuisance: it costs us more than the peer."""


class Inbound(Session):
    """The receiving half of a connection."""

    def on_data(self, data: bytes, start: int, end: int, flags: int, stream_id: int) -> None:
        size = end - start
        self._window -= size
        if self._window < self.limits.connection_window >> 1:
            self._renew_window()
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_closed:
            self._data_too_late(stream, stream_id, size)
            return
        stream.window -= size
        if stream.window < self.limits.stream_window >> 1:
            if stream.window < 0:
                self._reset_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
                return
            self._outbox.renew(stream)
        if flags & frames.PADDED:
            start, end = frames.unpad(data, start, end)
        ending = flags & frames.END_STREAM
        if end - start < TINY and not ending and (stream.inbox is not None or end - start < 5):
            self._nuisance()
        if stream.trailers is None and end > start and not self._take(stream, data, start, end):
            return
        if ending:
            self._half_close(stream)

    def _renew_window(self) -> None:
        if self._window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        full = max(self.limits.connection_window, frames.DEFAULT_WINDOW)
        if self._window <= full >> 1:
            self._outbox.ready.append(frames.window_update(0, full - self._window))
            self._window = full

    def _data_too_late(self, stream: Stream | None, stream_id: int, size: int) -> None:
        self._known(stream_id, "DATA")
        if stream is not None:
            self._reset_stream(stream, ErrorCode.STREAM_CLOSED)
        elif self._lately_closed(stream_id):
            # the rest of a body that we refused is on its way when we end its stream: that is no nuisance
            if size < TINY:
                self._crossing()
        else:
            self._nuisance()
            self._outbox.ready.append(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))

    def _take(self, stream: Stream, data: bytes, start: int, end: int) -> bool:
        """Cut messages out of DATA; false when the stream ended over them."""
        length = end - start - 5
        # nearly every frame holds exactly one message, uncompressed
        if (
            stream.inbox is None
            and 0 <= length <= self.limits.max_message
            and not data[start]
            and frames.unpack_u32(data, start + 1)[0] == length
        ):
            self._events.append(Message(stream.id, data[start + 5 : end]))
            return True
        return self._assemble(stream, data, start, end)

    def _assemble(self, stream: Stream, data: bytes, start: int, end: int) -> bool:
        """Put messages together that do not come one in a frame."""
        source: bytes | bytearray = data
        inbox = stream.inbox
        if inbox is not None:
            inbox += memoryview(data)[start:end]
            self._buffered += end - start
            if len(inbox) < stream.need:
                return self._check_buffered(stream)
            source, start, end = inbox, 0, len(inbox)
            stream.inbox = None
            self._buffered -= end
        try:
            messages, start, stream.need = grpc_framing.take_messages(source, start, end, self.limits.max_message)
        except GrpcError as error:
            self._refuse_call(stream, error)
            return False
        self._events += [Message(stream.id, message) for message in messages]
        if start < end:
            stream.inbox = bytearray(memoryview(source)[start:end])
            self._buffered += end - start
        return self._check_buffered(stream)

    def _check_buffered(self, stream: Stream) -> bool:
        if self._buffered <= self.limits.max_buffered:
            return True
        self._refuse_call(stream, GrpcError(Status.RESOURCE_EXHAUSTED, "too many incomplete messages"))
        return False

    def _end_call(self, stream: Stream, block: bytes) -> None:
        if self._outbox.finish(stream, block):
            self._all_sent(stream)

    def _refuse_call(self, stream: Stream, error: GrpcError) -> None:
        """Answer the peer's fault with a status; for the application the call is over."""
        self._drop_inbox(stream)
        self._events.append(Reset(stream.id, ErrorCode.CANCEL))
        if stream.trailers is None:
            self._end_call(stream, grpc_framing.trailers(error.status, error.text, only=not stream.answered))

    def _half_close(self, stream: Stream) -> None:
        stream.remote_closed = True
        if stream.inbox is not None:
            self._refuse_call(stream, GrpcError(Status.INTERNAL, "the last message is cut off"))
        elif stream.trailers is None:
            self._events.append(HalfClosed(stream.id))
