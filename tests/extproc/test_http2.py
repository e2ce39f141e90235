"""The HTTP/2 connection: frames in, events and frames out, limits and error codes (RFC 9113)."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest

from pointsman.extproc import frames as f
from pointsman.extproc import hpack
from pointsman.extproc.frames import ErrorCode as E
from pointsman.extproc.http2 import Connection, Event, HalfClosed, Http2Limits, Message, Reset, StreamOpened

END = f.END_HEADERS | f.END_STREAM
HEADERS = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/M"), (b"content-type", b"application/grpc"))
BLOCK = hpack.encode(HEADERS)
SMALL = Http2Limits(
    max_streams=3, max_message=100_000, max_pending=50_000, max_buffered=80_000, resets=(5, 10), nuisances=(20, 10)
)
SETTINGS = f.settings([])


class Frame(NamedTuple):
    kind: int
    flags: int
    id: int
    payload: bytes


def frames_in(data: bytes) -> list[Frame]:
    result, position = [], 0
    while position < len(data):
        word, flags, stream_id = struct.unpack_from(">IBI", data, position)
        end = position + 9 + (word >> 8)
        result.append(Frame(word & 255, flags, stream_id, data[position + 9 : end]))
        position = end
    assert position == len(data)
    return result


def headers(stream_id: int = 1, flags: int = f.END_HEADERS, block: bytes = BLOCK) -> bytes:
    return f.frame(f.HEADERS, flags, stream_id, block)


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">BI", 0, len(message)) + message for message in messages)


def data(payload: bytes = b"", stream_id: int = 1, flags: int = 0) -> bytes:
    return f.frame(f.DATA, flags, stream_id, payload)


def widen(by: int = 1 << 20, *ids: int) -> bytes:
    return b"".join(f.window_update(stream_id, by) for stream_id in (0, *ids))


class Client:
    """Plays a client against a connection that has seen the preface."""

    def __init__(self, limits: Http2Limits = SMALL, greeting: bytes = SETTINGS) -> None:
        self.connection = Connection(limits)
        self.now = 1.0
        assert self.send(f.PREFACE + greeting) == []
        self.greeting = self.frames()

    def send(self, *parts: bytes) -> list[Event]:
        return self.connection.receive(b"".join(parts), self.now)

    def frames(self) -> list[Frame]:
        return frames_in(self.connection.data_to_send())

    def fault(self) -> E | None:
        """The code in the GOAWAY, which is the last thing sent."""
        error = self.connection.error
        if error is None:
            return None
        last = self.frames()[-1]
        assert last.kind == f.GOAWAY
        assert E(int.from_bytes(last.payload[4:8], "big")) is error.code
        assert self.connection.finished
        assert self.send(headers(99)) == []
        return error.code

    def status(self, stream_id: int = 1) -> list[tuple[bytes, bytes]]:
        """The last headers of a stream, decoded."""
        blocks = [frame.payload for frame in self.frames() if frame.kind == f.HEADERS and frame.id == stream_id]
        return list(hpack.Decoder().decode(blocks[-1]))


def test_greeting() -> None:
    client = Client()
    assert [frame.kind for frame in client.greeting] == [f.SETTINGS, f.WINDOW_UPDATE, f.SETTINGS]
    assert dict(f.settings_of(client.greeting[0].payload)) == {3: 3, 4: SMALL.stream_window, 5: 262_144, 6: 16_384}
    assert client.greeting[2][:3] == (f.SETTINGS, f.ACK, 0)


def test_a_whole_call() -> None:
    client = Client()
    events = client.send(headers(), data(framed(b"one")), data(framed(b"two", b"three")), data(flags=f.END_STREAM))
    assert events == [
        StreamOpened(1, "/s/M", HEADERS),
        Message(1, b"one"),
        Message(1, b"two"),
        Message(1, b"three"),
        HalfClosed(1),
    ]
    assert client.connection.send_message(1, b"answer")
    client.connection.send_trailers(1, 0)
    head, body, trailers = client.frames()
    assert list(hpack.Decoder().decode(head.payload)) == [(b":status", b"200"), (b"content-type", b"application/grpc")]
    assert (head.flags, body) == (f.END_HEADERS, Frame(f.DATA, 0, 1, framed(b"answer")))
    assert (trailers.flags, hpack.Decoder().decode(trailers.payload)) == (END, ((b"grpc-status", b"0"),))
    assert client.connection.open_streams == 0
    assert not client.connection.is_open(1)
    assert client.connection.send_message(1, b"late")
    client.connection.send_trailers(1, 0)
    client.connection.reset(1)
    assert client.frames() == []


def test_an_answer_before_the_end_of_the_question() -> None:
    client = Client()
    client.send(headers())
    client.connection.send_trailers(1, 12, "no method ü %\n")
    assert [frame.kind for frame in client.frames()] == [f.HEADERS, f.RST_STREAM]
    # what was on its way is taken in, and counted
    big = data(bytes(60_000))
    for _ in range(2300):
        assert client.send(big, data(framed(b"x"))) == []
    assert client.send(headers(flags=END, block=b"")) == []
    assert client.fault() is None
    # 138 MB of the connection's window were used: it was renewed
    assert [frame.kind for frame in client.frames()] == [f.WINDOW_UPDATE]


def test_status_text_is_escaped() -> None:
    client = Client()
    client.send(headers())
    client.connection.send_trailers(1, 12, "no method ü %\n")
    assert dict(client.status()) == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"12",
        b"grpc-message": b"no method %C3%BC %25%0A",
    }


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_messages_in_pieces(size: int) -> None:
    client = Client(Http2Limits(nuisances=(100_000, 1)))
    sent = [b"", b"a", b"b" * 3000, b"", b"c" * 20_000]
    run = framed(*sent)
    events = client.send(headers(), *(data(run[at : at + size]) for at in range(0, len(run), size)))
    assert [event.data for event in events if isinstance(event, Message)] == sent
    assert client.connection._buffered == 0


def test_padding_priority_and_continuation() -> None:
    client = Client()
    padded = bytes((3,)) + b"\0\0\0\0\x10" + BLOCK[:5] + bytes(3)
    events = client.send(
        f.frame(f.HEADERS, f.PADDED | f.PRIORITY_FLAG, 1, padded),
        f.frame(f.CONTINUATION, 0, 1, BLOCK[5:9]),
        f.frame(f.CONTINUATION, f.END_HEADERS, 1, BLOCK[9:]),
        data(b"\x02" + framed(b"hi") + bytes(2), flags=f.PADDED),
        data(b"\x00" + framed(b"ho"), flags=f.PADDED),
        f.frame(f.PRIORITY, 0, 1, bytes(5)),
        f.frame(f.PRIORITY, 0, 77, bytes(5)),
        f.frame(0xEE, 0xFF, 1, b"whatever"),
        headers(flags=END, block=hpack.encode([(b"x-trailer", b"1")])),
    )
    assert events == [StreamOpened(1, "/s/M", HEADERS), Message(1, b"hi"), Message(1, b"ho"), HalfClosed(1)]


def test_ping() -> None:
    client = Client()
    client.send(f.frame(f.PING, 0, 0, b"12345678"), f.frame(f.PING, f.ACK, 0, b"87654321"))
    assert client.frames() == [Frame(f.PING, f.ACK, 0, b"12345678")]
    client.connection.ping()
    assert client.frames()[0][:3] == (f.PING, 0, 0)


SETTING = struct.Struct(">HI").pack
OPEN = headers()
CONNECTION_ERRORS: dict[str, tuple[E, bytes]] = {
    "data on stream 0": (E.PROTOCOL_ERROR, data(b"x", 0)),
    "data on an idle stream": (E.PROTOCOL_ERROR, data(b"x", 5)),
    "data on an even stream": (E.PROTOCOL_ERROR, data(b"x", 2)),
    "data with too much padding": (E.PROTOCOL_ERROR, OPEN + data(b"\x05abcd", flags=f.PADDED)),
    "data with no room for the padding": (E.PROTOCOL_ERROR, OPEN + data(b"", flags=f.PADDED)),
    "frame too large": (E.FRAME_SIZE_ERROR, b"\x04\x00\x01\x00\x00\0\0\0\x01"),
    "headers on stream 0": (E.PROTOCOL_ERROR, headers(0)),
    "headers on an even stream": (E.PROTOCOL_ERROR, headers(2)),
    "headers on a skipped stream": (E.PROTOCOL_ERROR, headers(5) + headers(3)),
    "headers that cannot be decoded": (E.COMPRESSION_ERROR, headers(1, f.END_HEADERS, b"\xff\xff")),
    "headers too short for a priority": (E.FRAME_SIZE_ERROR, f.frame(f.HEADERS, 0x24, 1, b"\0\0")),
    "headers too large": (E.ENHANCE_YOUR_CALM, f.frame(f.HEADERS, 0, 1, bytes(40_000))),
    "continuation of nothing": (E.PROTOCOL_ERROR, f.frame(f.CONTINUATION, 4, 1, BLOCK)),
    "continuation elsewhere": (E.PROTOCOL_ERROR, headers(1, 0) + f.frame(f.CONTINUATION, 4, 3, b"")),
    "something amid headers": (E.PROTOCOL_ERROR, headers(1, 0) + f.frame(f.PING, 0, 0, bytes(8))),
    "something unknown amid headers": (E.PROTOCOL_ERROR, headers(1, 0) + f.frame(0x99, 0, 1, b"")),
    "priority on stream 0": (E.PROTOCOL_ERROR, f.frame(f.PRIORITY, 0, 0, bytes(5))),
    "reset on stream 0": (E.PROTOCOL_ERROR, f.rst_stream(0, 8)),
    "reset of an idle stream": (E.PROTOCOL_ERROR, f.rst_stream(1, 8)),
    "reset of a wrong size": (E.FRAME_SIZE_ERROR, OPEN + f.frame(f.RST_STREAM, 0, 1, bytes(3))),
    "settings on a stream": (E.PROTOCOL_ERROR, f.frame(f.SETTINGS, 0, 1)),
    "settings of a wrong size": (E.FRAME_SIZE_ERROR, f.frame(f.SETTINGS, 0, 0, bytes(5))),
    "settings acknowledged with content": (E.FRAME_SIZE_ERROR, f.frame(f.SETTINGS, 1, 0, bytes(6))),
    "settings: push": (E.PROTOCOL_ERROR, f.settings([(2, 2)])),
    "settings: window": (E.FLOW_CONTROL_ERROR, f.settings([(4, 1 << 31)])),
    "settings: frame too small": (E.PROTOCOL_ERROR, f.settings([(5, 16_383)])),
    "settings: frame too large": (E.PROTOCOL_ERROR, f.settings([(5, 1 << 24)])),
    "settings: too many": (E.ENHANCE_YOUR_CALM, f.settings([(9, 1)] * 33)),
    "settings: a window over the top": (
        E.FLOW_CONTROL_ERROR,
        OPEN + f.window_update(1, f.MAX_WINDOW - 65_535) + f.settings([(4, 65_536)]),
    ),
    "push": (E.PROTOCOL_ERROR, f.frame(f.PUSH_PROMISE, 4, 1, bytes(4) + BLOCK)),
    "ping on a stream": (E.PROTOCOL_ERROR, f.frame(f.PING, 0, 1, bytes(8))),
    "ping of a wrong size": (E.FRAME_SIZE_ERROR, f.frame(f.PING, 0, 0, bytes(7))),
    "goaway on a stream": (E.PROTOCOL_ERROR, f.frame(f.GOAWAY, 0, 1, bytes(8))),
    "goaway of a wrong size": (E.FRAME_SIZE_ERROR, f.frame(f.GOAWAY, 0, 0, bytes(7))),
    "window update of a wrong size": (E.FRAME_SIZE_ERROR, f.frame(f.WINDOW_UPDATE, 0, 0, bytes(3))),
    "window update by nothing": (E.PROTOCOL_ERROR, f.window_update(0, 0)),
    "window update over the top": (E.FLOW_CONTROL_ERROR, widen(f.MAX_WINDOW)),
    "window update of an idle stream": (E.PROTOCOL_ERROR, f.window_update(1, 1)),
    "ping flood": (E.ENHANCE_YOUR_CALM, f.frame(f.PING, 0, 0, bytes(8)) * 25),
    "settings flood": (E.ENHANCE_YOUR_CALM, SETTINGS * 25),
    "settings flood with work": (E.ENHANCE_YOUR_CALM, OPEN + f.settings([(4, 1)]) * 25),
    "priority flood": (E.ENHANCE_YOUR_CALM, f.frame(f.PRIORITY, 0, 1, bytes(5)) * 25),
    "flood of unknown frames": (E.ENHANCE_YOUR_CALM, f.frame(0x42, 0, 0) * 25),
    "flood of empty data": (E.ENHANCE_YOUR_CALM, OPEN + data() * 25),
    "flood of tiny data": (E.ENHANCE_YOUR_CALM, OPEN + data(framed(bytes(90))[:40]) + data(b"x") * 25),
    "goaway flood": (E.ENHANCE_YOUR_CALM, f.go_away(0, 0) * 25),
    "continuation flood": (E.ENHANCE_YOUR_CALM, headers(1, 0) + f.frame(f.CONTINUATION, 0, 1, bytes(9000)) * 4),
    "flood of empty continuation": (E.ENHANCE_YOUR_CALM, headers(1, 0) + f.frame(f.CONTINUATION, 0, 1) * 25),
    "rapid reset": (
        E.ENHANCE_YOUR_CALM,
        b"".join(headers(number) + f.rst_stream(number, 8) for number in range(1, 20, 2)),
    ),
    "flood of refused streams": (E.ENHANCE_YOUR_CALM, b"".join(headers(number) for number in range(1, 61, 2))),
    "window update flood": (E.ENHANCE_YOUR_CALM, f.window_update(0, 1) * 10_001),
    "flood on closed streams": (E.ENHANCE_YOUR_CALM, OPEN + f.rst_stream(1, 8) * 10_003),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_connection_errors(name: str) -> None:
    code, sent = CONNECTION_ERRORS[name]
    client = Client()
    events = client.send(sent)
    assert client.fault() is code
    opened = {event.id for event in events if isinstance(event, StreamOpened)}
    assert {event.id for event in events if isinstance(event, Reset)} == opened


STREAM_ERRORS: dict[str, tuple[E, bytes]] = {
    "no path": (E.PROTOCOL_ERROR, headers(block=hpack.encode(HEADERS[:2]))),
    "pseudo header twice": (E.PROTOCOL_ERROR, headers(block=hpack.encode(HEADERS[:1]) + BLOCK)),
    "pseudo header last": (E.PROTOCOL_ERROR, headers(block=BLOCK + hpack.encode([(b":authority", b"x")]))),
    "pseudo header unknown": (E.PROTOCOL_ERROR, headers(block=hpack.encode([(b":color", b"x")]) + BLOCK)),
    "pseudo header of answers": (E.PROTOCOL_ERROR, headers(block=hpack.encode([(b":status", b"200")]) + BLOCK)),
    "upper case": (E.PROTOCOL_ERROR, headers(block=BLOCK + hpack.encode([(b"X-a", b"x")]))),
    "no name": (E.PROTOCOL_ERROR, headers(block=BLOCK + hpack.encode([(b"", b"x")]))),
    "a line break": (E.PROTOCOL_ERROR, headers(block=BLOCK + hpack.encode([(b"a", b"x\r\nb: c")]))),
    "connection header": (E.PROTOCOL_ERROR, headers(block=BLOCK + hpack.encode([(b"connection", b"close")]))),
    "te": (E.PROTOCOL_ERROR, headers(block=BLOCK + hpack.encode([(b"te", b"gzip")]))),
    "trailers without an end": (E.PROTOCOL_ERROR, OPEN + headers(block=hpack.encode([(b"a", b"b")]))),
    "pseudo header in trailers": (E.PROTOCOL_ERROR, OPEN + headers(flags=END)),
    "data after the end": (E.STREAM_CLOSED, headers(flags=END) + data(b"x")),
    "headers after the end": (E.STREAM_CLOSED, headers(flags=END) + headers(flags=END)),
    "window update by nothing": (E.PROTOCOL_ERROR, OPEN + f.window_update(1, 0)),
    "window update over the top": (E.FLOW_CONTROL_ERROR, OPEN + f.window_update(1, f.MAX_WINDOW)),
    "priority of a wrong size": (E.FRAME_SIZE_ERROR, OPEN + f.frame(f.PRIORITY, 0, 1, bytes(4))),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_stream_errors(name: str) -> None:
    code, sent = STREAM_ERRORS[name]
    client = Client()
    events = client.send(sent)
    assert Frame(f.RST_STREAM, 0, 1, code.to_bytes(4, "big")) in client.frames()
    assert (Reset(1, code) in events) == any(isinstance(event, StreamOpened) for event in events)
    # the connection lives on
    assert client.send(headers(3), data(framed(b"x"), 3))[1:] == [Message(3, b"x")]
    assert client.fault() is None
