"""What HTTP/2 counts: the state of a stream, the send side with its windows, and budgets against floods."""

from __future__ import annotations

import struct
from collections import OrderedDict, deque

import msgspec

from pointsman.extproc import frames
from pointsman.extproc.grpc_framing import RESPONSE_HEAD

MIB = 1024 * 1024


class Http2Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may ask of us. Sizes are in bytes; rates are per second, with a burst before they count.

    Attributes:
        max_frame: our SETTINGS_MAX_FRAME_SIZE; also bounds the bytes kept of an incomplete frame.
        max_header_list: our SETTINGS_MAX_HEADER_LIST_SIZE, decoded.
        max_header_block: encoded headers with their CONTINUATION frames.
        max_streams: open at the same time.
        max_message: of one gRPC message coming in.
        max_pending: answers of one stream that wait for the peer's window.
        max_buffered: on the whole connection, incomplete messages and waiting answers, each.
        stream_window: receive window of a stream, renewed when half is used up; at least 65,535, which is what a peer
            may send before it has read our settings.
        connection_window: receive window of the connection, at least 65,535.
        held_back: a stream with more than this waiting to go out gets no new window, so the peer has to read first.
        resets: streams given up by the peer before they were answered (CVE-2023-44487): burst, and per second. Opening
            and dropping one costs some 10 us, so the rate is 1 % of a core.
        nuisances: frames that bring nothing: PING, SETTINGS, PRIORITY, unknown ones, empty or tiny DATA, frames on
            closed streams: burst, and per second.
    """

    max_frame: int = 256 * 1024
    max_header_list: int = 16 * 1024
    max_header_block: int = 32 * 1024
    max_streams: int = 20_000
    max_message: int = 64 * MIB
    max_pending: int = 80 * MIB
    max_buffered: int = 256 * MIB
    stream_window: int = 16 * MIB
    connection_window: int = 256 * MIB
    held_back: int = MIB
    resets: tuple[int, int] = (10_000, 1_000)
    nuisances: tuple[int, int] = (10_000, 1_000)


class Budget:
    """A bucket of tokens that fills with time. Times are seconds of any steady clock."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._rate = burst, per_second
        self._tokens, self._filled = burst, 0.0

    def spend(self, now: float, cost: float = 1) -> bool:
        """Take tokens; false when there are not enough."""
        if self._tokens < self._burst:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled) * self._rate)
        self._filled = now
        self._tokens -= cost
        return self._tokens >= 0


class Stream:
    """One open stream.

    Attributes:
        window: what the peer may still send.
        send_window: what we may still send; negative after the peer shrank its initial window.
        inbox: start of an incomplete message, None most of the time.
        need: bytes that ``inbox`` must reach before it is worth a look.
        answered: whether the response headers are out.
        remote_closed: the peer has sent END_STREAM.
        pending: parts of answers that wait for a window.
        pending_bytes: their length.
        trailers: header block that ends the stream once ``pending`` is empty; nothing can be sent after it.
    """

    __slots__ = (
        "answered",
        "id",
        "inbox",
        "need",
        "pending",
        "pending_bytes",
        "remote_closed",
        "send_window",
        "trailers",
        "window",
    )

    def __init__(self, stream_id: int, window: int, send_window: int) -> None:
        self.id, self.window, self.send_window = stream_id, window, send_window
        self.inbox: bytearray | None = None
        self.need = self.pending_bytes = 0
        self.answered = self.remote_closed = False
        self.pending: deque[memoryview] | None = None
        self.trailers: bytes | None = None


_DATA = struct.Struct(">IBI").pack
_MESSAGE = struct.Struct(">IBIBI").pack
_PREFIX = struct.Struct(">BI").pack
_SHRINK_TABLE = b"\x20"
_END = frames.END_HEADERS | frames.END_STREAM


class Outbox:
    """The send side of a connection: frames that may go out, and answers that wait for the peer's windows.

    Args:
        limits: bounds of what may wait.

    Attributes:
        ready: bytes to write, in order.
        window: the connection's send window.
        paused: the transport is full; answers wait with their streams, where their bytes are counted.
        buffered: bytes that wait, over all streams.
        data_frames: sent so far.
        done: streams whose trailers had to wait and are out now.
    """

    def __init__(self, limits: Http2Limits) -> None:
        self._limits = limits
        self.ready: list[bytes | memoryview] = []
        self.window = self.initial_window = frames.DEFAULT_WINDOW
        self.max_frame = frames.MIN_FRAME_BYTES
        self.paused = False
        self.buffered = self.data_frames = 0
        self.done: list[Stream] = []
        self.shrink_table = False
        """The peer allows a smaller header table than 4096, which the next block must own up to (RFC 7541 4.2)."""
        self._turn: OrderedDict[int, Stream] = OrderedDict()

    def message(self, stream: Stream, data: bytes) -> bool:
        """Send a gRPC message, or as much of it as the windows allow and the rest later.

        Returns:
            False when more would have to wait than the limits allow; the stream is then good for nothing but a reset.
        """
        if not stream.answered:
            self.head(stream, RESPONSE_HEAD)
        length = len(data)
        size = length + 5
        if not stream.pending and size <= stream.send_window and size <= self.window and not self.paused:
            stream.send_window -= size
            self.window -= size
            self.data_frames += 1
            if size <= self.max_frame:
                # frame and message header in one pack: nearly every answer goes this way
                self.ready += (_MESSAGE(size << 8, 0, stream.id, 0, length), data)
            else:
                self._in_frames(stream.id, data)
            return True
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append(memoryview(_PREFIX(0, length) + data))
        stream.pending_bytes += size
        self.buffered += size
        self._turn[stream.id] = stream
        self.flush()
        return stream.pending_bytes <= self._limits.max_pending and self.buffered <= self._limits.max_buffered

    def _in_frames(self, stream_id: int, data: bytes) -> None:
        """Send a message that the windows allow but one frame cannot hold, without a copy of it."""
        view, length, most = memoryview(data), len(data), self.max_frame
        self.ready += (_MESSAGE(most << 8, 0, stream_id, 0, length), view[: most - 5])
        for start in range(most - 5, length, most):
            part = view[start : start + most]
            self.ready += (_DATA(len(part) << 8, 0, stream_id), part)
            self.data_frames += 1

    def head(self, stream: Stream, block: bytes, flags: int = frames.END_HEADERS) -> None:
        """Send a header block at once; blocks are not under flow control."""
        stream.answered = True
        if self.shrink_table:
            self.shrink_table, block = False, _SHRINK_TABLE + block
        self.ready += (_DATA(len(block) << 8 | frames.HEADERS, flags, stream.id), block)

    def finish(self, stream: Stream, block: bytes) -> bool:
        """End our side with trailers; false when they have to wait for :meth:`flush`."""
        stream.trailers = block
        if stream.pending:
            return False
        self.head(stream, block, _END)
        return True

    def flush(self) -> None:
        """Send what the windows allow, a frame of each stream in turn."""
        turn = self._turn
        while turn and self.window > 0 and not self.paused:
            stream = turn.popitem(last=False)[1]
            if not stream.pending or stream.send_window <= 0:
                continue
            self._next_frame(stream, stream.pending)
            if stream.pending:
                turn[stream.id] = stream
            elif stream.trailers is not None:
                self.head(stream, stream.trailers, _END)
                self.done.append(stream)

    def _next_frame(self, stream: Stream, pending: deque[memoryview]) -> None:
        room = min(self.max_frame, stream.send_window, self.window)
        part = pending[0]
        if len(part) > room:
            pending[0], part = part[room:], part[:room]
        else:
            pending.popleft()
        size = len(part)
        self.ready += (_DATA(size << 8, 0, stream.id), part)
        self.data_frames += 1
        self.window -= size
        self.buffered -= size
        stream.send_window -= size
        stream.pending_bytes -= size
        self.renew(stream)

    def renew(self, stream: Stream) -> None:
        """Widen a stream's receive window when half is used up, unless the peer should read our answers first."""
        full = self._limits.stream_window
        if stream.window <= full // 2 and stream.pending_bytes <= self._limits.held_back and not stream.remote_closed:
            self.ready.append(frames.window_update(stream.id, full - stream.window))
            stream.window = full

    def widened(self, stream: Stream) -> None:
        """The stream's window has grown: it may take its turn again."""
        if stream.pending:
            self._turn[stream.id] = stream

    def drop(self, stream: Stream) -> None:
        """Forget what waits for a stream."""
        self.buffered -= stream.pending_bytes
        stream.pending_bytes, stream.pending = 0, None
        self._turn.pop(stream.id, None)
