"""Flow control, limits and the end of a connection; and that how the bytes are cut makes no difference."""

from __future__ import annotations

import time

import msgspec
import pytest
from tests.extproc.test_http2 import BLOCK, END, HEADERS, OPEN, SMALL, Client, Frame, data, framed, headers

from pointsman.extproc import frames as f
from pointsman.extproc import hpack
from pointsman.extproc.flow import MIB, Budget
from pointsman.extproc.frames import ErrorCode as E
from pointsman.extproc.http2 import Connection, Http2Limits, Message, Reset, StreamOpened


def body_of(frames: list[Frame], stream_id: int = 1) -> bytes:
    return b"".join(frame.payload for frame in frames if frame.kind == f.DATA and frame.id == stream_id)


def limits(**changes: object) -> Http2Limits:
    return msgspec.structs.replace(SMALL, **changes)


# Sending


@pytest.mark.parametrize("window", [1, 7, 1000])
def test_tiny_windows(window: int) -> None:
    client = Client(greeting=f.settings([(4, window)]))
    client.send(headers(flags=END))
    answers = [b"a" * 100, b"", b"b" * 3000]
    assert all(client.connection.send_message(1, answer) for answer in answers)
    client.connection.send_trailers(1, 0)
    seen = client.frames()
    while client.connection.open_streams:
        assert client.send(f.window_update(1, window)) == []
        sent = client.frames()
        assert len(body_of(sent)) <= window
        seen += sent
    assert body_of(seen) == framed(*answers)
    assert (seen[0].kind, seen[-1].flags) == (f.HEADERS, END)
    assert client.connection._outbox.buffered == 0


def test_the_connection_window_is_shared_in_turns() -> None:
    client = Client(limits(max_pending=MIB, max_buffered=MIB), greeting=f.settings([(4, MIB)]))
    client.send(headers(1), headers(3), headers(5))
    assert client.connection.send_message(1, bytes(65_530))  # all of it
    for stream_id in (1, 3, 5):
        assert client.connection.send_message(stream_id, bytes(16_384 * 2 - 5))
    client.frames()
    client.send(f.window_update(0, 16_384 * 3))
    assert [frame.id for frame in client.frames()] == [1, 3, 5]
    client.send(f.window_update(0, MIB))
    assert [frame.id for frame in client.frames()] == [1, 3, 5]
    assert client.connection._outbox.window == MIB - 3 * 16_384


def test_a_changed_initial_window_reaches_open_streams() -> None:
    client = Client(greeting=f.settings([(4, 100)]))
    client.send(OPEN)
    client.connection.send_message(1, bytes(295))
    assert len(body_of(client.frames())) == 100
    client.send(f.settings([(4, 50)]))  # now 50 below nothing
    client.send(f.window_update(1, 49))
    assert body_of(client.frames()) == b""
    client.send(f.settings([(4, 150)]), f.settings([(4, 250)]))
    assert len(body_of(client.frames())) == 199
    client.send(f.window_update(1, 1))
    assert len(body_of(client.frames())) == 1


def test_frames_are_as_large_as_the_peer_takes() -> None:
    client = Client(greeting=f.settings([(4, MIB), (5, 20_000)]))
    client.send(OPEN, f.window_update(0, MIB))
    client.frames()
    assert client.connection.send_message(1, bytes(50_000))
    assert [len(frame.payload) for frame in client.frames()][1:] == [20_000, 20_000, 10_005]


def test_a_smaller_header_table_is_owned_up_to() -> None:
    client = Client(greeting=f.settings([(1, 0)]))
    client.send(OPEN)
    client.connection.send_trailers(1, 0)
    [block] = [frame.payload for frame in client.frames() if frame.kind == f.HEADERS]
    assert block[0] == 0x20
    assert hpack.Decoder(0).decode(block)[-1] == (b"grpc-status", b"0")


def test_who_does_not_read_is_reset() -> None:
    client = Client(greeting=f.settings([(4, 0)]))
    client.send(headers(1), headers(3))
    sent = 0
    while client.connection.send_message(1, bytes(9995)):
        sent += 1
    assert sent == 5
    assert Frame(f.RST_STREAM, 0, 1, E.ENHANCE_YOUR_CALM.to_bytes(4, "big")) in client.frames()
    assert client.connection._outbox.buffered == 0
    assert client.connection.send_message(3, b"x")  # the other one lives


def test_the_transport_may_be_full() -> None:
    client = Client()
    client.send(OPEN)
    client.connection.pause()
    assert client.connection.send_message(1, b"answer")
    client.connection.send_trailers(1, 0)
    assert [frame.kind for frame in client.frames()] == [f.HEADERS]
    client.connection.resume()
    assert [frame.kind for frame in client.frames()] == [f.DATA, f.HEADERS, f.RST_STREAM]
    assert client.connection.open_streams == 0


def test_a_reset_amid_a_waiting_answer() -> None:
    client = Client(greeting=f.settings([(4, 0)]))
    client.send(OPEN)
    client.connection.send_message(1, b"answer")
    client.connection.send_trailers(1, 0)
    # the application has ended the call, but is told; it does not know the stream any more
    assert client.send(data(framed(b"more")), f.rst_stream(1, 8)) == [Reset(1, 8)]
    assert (client.connection.open_streams, client.connection._outbox.buffered) == (0, 0)
    client.send(f.window_update(1, 100))
    assert client.fault() is None


# Receiving


def test_receive_windows_are_kept_and_renewed() -> None:
    small = limits(stream_window=70_000, connection_window=100_000, max_message=MIB, max_buffered=MIB)
    client = Client(small)
    piece = framed(bytes(9995))
    assert client.send(OPEN, data(piece), data(piece), data(piece))[-1] == Message(1, bytes(9995))
    assert client.frames() == []
    client.send(data(piece), data(piece), data(piece))
    updates = [(frame.id, int.from_bytes(frame.payload, "big")) for frame in client.frames()]
    assert updates == [(1, 40_000), (0, 60_000)]


def test_more_data_than_the_windows() -> None:
    client = Client(limits(stream_window=70_000, connection_window=MIB, held_back=-1))  # never renewed
    sent = [data(framed(bytes(9995)))] * 8
    assert client.send(OPEN, *sent)[-1] == Reset(1, E.FLOW_CONTROL_ERROR)
    client = Client(limits(connection_window=1))
    client.send(OPEN, f.frame(f.DATA, 0, 1, bytes(65_536)))
    assert client.fault() is E.FLOW_CONTROL_ERROR


def test_who_does_not_read_may_not_send_for_ever() -> None:
    client = Client(limits(stream_window=100_000, held_back=20_000), greeting=f.settings([(4, 0)]))
    client.send(OPEN)
    client.connection.send_message(1, bytes(30_000))
    client.frames()
    events = client.send(*[data(framed(bytes(9995)))] * 10)
    assert len(events) == 10
    assert client.frames() == []  # no new window
    client.send(f.window_update(1, 15_000))
    assert [frame.kind for frame in client.frames()] == [f.DATA, f.WINDOW_UPDATE]


def test_large_bodies_take_linear_time() -> None:
    client = Client(Http2Limits())
    run = framed(bytes(16 * MIB))
    pieces = [data(run[at : at + 16_384]) for at in range(0, len(run), 16_384)]
    client.send(OPEN)
    began = time.process_time()
    events = [event for piece in pieces for event in client.connection.receive(piece, 1.0)]
    assert events == [Message(1, bytes(16 * MIB))]
    assert time.process_time() - began < 1.0  # some 30 ms; quadratic work would take many seconds


def test_a_large_frame_that_trickles_in() -> None:
    client = Client(Http2Limits())
    client.send(OPEN)
    sent = data(framed(bytes(250_000)))
    began = time.process_time()
    events = [event for byte in sent for event in client.connection.receive(bytes((byte,)), 1.0)]
    assert events == [Message(1, bytes(250_000))]
    assert time.process_time() - began < 2.0


# Calls that are refused


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (OPEN + data(b"\1" + framed(b"x")[1:]), 12),  # compressed
        (OPEN + data(framed(bytes(100_001))), 8),  # too large, in one frame
        (OPEN + data(framed(bytes(100_001))[:20]), 8),  # too large, by its head alone
        (OPEN + data(framed(b"xyz")[:-1], flags=f.END_STREAM), 13),  # cut off
        (headers(block=BLOCK + hpack.encode([(b"a", bytes(17_000).replace(b"\0", b"x"))])), 8),
    ],
)
def test_faults_of_a_call_are_answered_with_a_status(sent: bytes, status: int) -> None:
    client = Client()
    events = client.send(sent)
    assert events in ([StreamOpened(1, "/s/M", HEADERS), Reset(1, E.CANCEL)], [])
    assert dict(client.status())[b"grpc-status"] == b"%d" % status
    assert client.connection.open_streams == client.connection._buffered == 0


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ((b"content-type", b"application/json"), b"415"),
        ((b"content-type", b"application/grpcx"), b"415"),
        ((b":method", b"GET"), b"405"),
    ],
)
def test_what_is_no_grpc_gets_an_http_answer(header: tuple[bytes, bytes], status: bytes) -> None:
    client = Client()
    pairs = dict(HEADERS) | dict([header])
    assert client.send(headers(block=hpack.encode(pairs.items()))) == []
    assert client.status()[0] == (b":status", status)


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc;charset=utf-8", b"application/GRPC"])
def test_kinds_of_grpc(kind: bytes) -> None:
    pairs = dict(HEADERS) | {b"content-type": kind}
    [opened] = Client().send(headers(block=hpack.encode(pairs.items())))
    assert isinstance(opened, StreamOpened)


def test_incomplete_messages_are_bounded_together() -> None:
    client = Client()
    events = []
    for stream_id in (1, 3, 5):
        events += client.send(headers(stream_id), data(framed(bytes(50_000))[:40_000], stream_id))
    assert [event for event in events if isinstance(event, Reset)] == [Reset(5, E.CANCEL)]
    assert dict(client.status(5))[b"grpc-status"] == b"8"
    assert client.connection._buffered == 80_000


def test_streams_at_once() -> None:
    client = Client()
    assert len(client.send(*(headers(number) for number in (1, 3, 5, 7)))) == 3
    assert client.frames() == [Frame(f.RST_STREAM, 0, 7, E.REFUSED_STREAM.to_bytes(4, "big"))]
    client.connection.reset(3)
    assert client.send(headers(9)) == [StreamOpened(9, "/s/M", HEADERS)]


def test_resets_of_answered_streams_are_no_flood() -> None:
    client = Client(limits(max_streams=10))
    for number in range(1, 201, 2):
        assert client.send(headers(number), data(framed(b"x"), number))[-1] == Message(number, b"x")
        client.connection.send_message(number, b"y")
        assert client.send(f.rst_stream(number, 8)) == [Reset(number, 8)]
    assert client.fault() is None


def test_budgets_fill_with_time() -> None:
    budget = Budget(2, 10)
    assert [budget.spend(1.0) for _ in range(3)] == [True, True, False]
    assert budget.spend(1.3)
    assert [budget.spend(0.5), budget.spend(0.5)] == [True, False]  # a clock that goes back gives nothing
    assert [budget.spend(1000.0) for _ in range(3)] == [True, True, False]


# The end of a connection


def test_leaving_in_two_steps() -> None:
    client = Client()
    client.send(headers(1))
    client.connection.go_away()
    client.connection.go_away()  # says nothing new
    goodbye, ping = client.frames()
    assert goodbye.payload == f.MAX_STREAM_ID.to_bytes(4, "big") + bytes(4)
    assert client.send(headers(3)) == [StreamOpened(3, "/s/M", HEADERS)]  # it was on its way
    client.send(f.frame(f.PING, f.ACK, 0, ping.payload))
    assert client.frames() == [Frame(f.GOAWAY, 0, 0, bytes((0, 0, 0, 3)) + bytes(4))]
    assert client.send(headers(5)) == []
    assert client.frames()[0].payload == E.REFUSED_STREAM.to_bytes(4, "big")
    for stream_id in (1, 3):
        assert not client.connection.finished
        client.connection.send_trailers(stream_id, 0)
    assert client.connection.finished
    client.connection.go_away()
    assert [frame.kind for frame in client.frames()] == [f.HEADERS, f.RST_STREAM] * 2


def test_the_peer_leaves() -> None:
    client = Client()
    client.send(headers(1), f.go_away(0, 0, "bye"))
    assert not client.connection.finished
    client.send(f.rst_stream(1, 8))
    assert client.connection.finished
    assert client.connection.error is None


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", f.PREFACE + f.frame(f.PING, 0, 0, bytes(8))]
)
def test_other_protocols_are_turned_away(start: bytes) -> None:
    connection = Connection()
    assert connection.receive(start[:5], 0.0) + connection.receive(start[5:], 0.0) == []
    assert connection.error is not None
    assert connection.finished
