"""Whatever bytes come, the connection and its streams hold: a short run of the fuzzer, and cuts at any place."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.extproc import fuzz
from tests.extproc.test_http2 import END, SETTINGS, SMALL, data, framed, headers

from pointsman.extproc import frames as f
from pointsman.extproc.http2 import Connection, HalfClosed, Message, Reset, StreamOpened


def test_seeds_are_sound() -> None:
    for seed in fuzz.load_seeds():
        host = fuzz.Host()
        for frame in [f.PREFACE, *seed]:
            host.play(frame, 1.0)
        assert host.connection.error is None
        assert len(host.decider.exchanges) >= 5


@pytest.mark.timeout(120)  # some 5 s on a quiet machine
def test_mutated_sessions() -> None:
    outcomes = fuzz.run(20_000)
    assert set(outcomes) >= {"fine", "reset", "PROTOCOL_ERROR", "COMPRESSION_ERROR", "FRAME_SIZE_ERROR"}
    assert outcomes["fine"] + outcomes["reset"] > 4_000  # not all of it fails at the door


def session() -> bytes:
    """A bit of everything that is legal."""
    indexed = b"\x83\x86\x04\x02/x\x40\x0ccontent-type\x10application/grpc"
    return b"".join(
        [
            *(f.PREFACE, SETTINGS, f.window_update(0, 1000), headers(1, block=indexed), data(framed(b"a", b"b"))),
            *(f.frame(f.HEADERS, 0, 3, indexed[:9]), f.frame(f.CONTINUATION, 4, 3, indexed[9:])),
            *(data(framed(b"c" * 300)[:200], 3), f.frame(f.PING, 0, 0, bytes(8)), data(framed(b"c" * 300)[200:], 3)),
            *(f.settings([(4, 10), (5, 20_000)]), data(b"", 1, f.END_STREAM), f.window_update(3, 5)),
            *(headers(5, END, b"\x83\x86\x04\x02/x\xbe"), f.rst_stream(3, 8), data(b"\x01\0", 1)[:9] + b"\x01\0"),
        ]
    )


@given(st.lists(st.integers(0, 700), max_size=30))
def test_any_cut_of_the_bytes_is_the_same_session(cuts: list[int]) -> None:
    whole = session()
    once = Connection(SMALL)
    expected = once.receive(whole, 1.0)
    assert Counter(type(event) for event in expected) == {StreamOpened: 3, Message: 3, HalfClosed: 2, Reset: 2}
    connection, events, sent = Connection(SMALL), [], b""
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    for start, end in pairwise(edges):
        events += connection.receive(whole[start:end], 1.0)
        sent += connection.data_to_send()
    assert events == expected
    assert sent == once.data_to_send()


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_behind_the_preface(parts: list[bytes]) -> None:
    host = fuzz.Host()
    host.play(f.PREFACE + SETTINGS, 1.0)
    for part in parts:
        host.play(part, 1.0)
    host.end()
    fuzz.check_output(bytes(host.sent))
