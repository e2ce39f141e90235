from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.datalayer import http_reply
from pointsman.datalayer.http_reply import NotHttpError, Reply, ReplyReader, TooLargeError
from pointsman.errors import PointsmanError

LIMIT = 1000
OK = b"HTTP/1.1 200 OK\r\n"


def read(data: bytes, *, end: bool = False, step: int = 0) -> Reply | None:
    """The answer in ``data``, delivered ``step`` bytes at a time."""
    reader = ReplyReader(LIMIT)
    step = step or max(1, len(data))
    for at in range(0, len(data), step):
        reply = reader.feed(data[at : at + step])
        if reply is not None:
            return reply
    return reader.eof() if end else None


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailers + b"\r\n"


def sized(body: bytes, *fields: bytes) -> bytes:
    head = b"".join(field + b"\r\n" for field in (b"Content-Length: %d" % len(body), *fields))
    return OK + head + b"\r\n" + body


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (sized(b"hello"), Reply(200, b"hello", True)),
        (sized(b""), Reply(200, b"", True)),
        (sized(b"hello", b"connection: CLOSE"), Reply(200, b"hello", False)),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", Reply(200, b"hi", False)),
        (b"HTTP/1.1 404\r\ncontent-length: 2\r\n\r\nno", Reply(404, b"no", True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Reply(204, b"", True)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + sized(b"x"), Reply(200, b"x", True)),
        (chunked(b"he", b"llo"), Reply(200, b"hello", True)),
        (chunked(), Reply(200, b"", True)),
        (chunked(b"x" * 300, trailers=b"a: b\r\nc: d\r\n"), Reply(200, b"x" * 300, True)),
        (sized(gzip.compress(b"page" * 20), b"content-encoding: gzip"), Reply(200, b"page" * 20, True)),
        (sized(zlib.compress(b"page"), b"Content-Encoding: deflate"), Reply(200, b"page", True)),
        (sized(b"page", b"content-encoding: identity"), Reply(200, b"page", True)),
    ],
)
def test_answers(data: bytes, reply: Reply, step: int) -> None:
    assert read(data, step=step) == reply


def test_an_answer_that_ends_by_closing() -> None:
    assert read(OK + b"\r\nhello", end=True, step=3) == Reply(200, b"hello", False)
    assert read(OK + b"\r\nhello") is None


@pytest.mark.parametrize("data", [sized(b"hello")[:-1], chunked(b"hello")[:-1], OK, b""])
def test_what_is_cut_off_is_no_answer(data: bytes) -> None:
    assert read(data, end=True) is None


def test_more_than_was_announced_ends_the_connection() -> None:
    assert read(sized(b"hello") + b"more") == Reply(200, b"hello", False)
    assert read(chunked(b"hello") + b"more") == Reply(200, b"hello", False)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
        OK + b"x" * 40_000,
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: 1e3\r\n\r\n",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nabcd",
        OK + b"transfer-encoding: chunked\r\n\r\n" + b"1" * 40_000,
        OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"1" * 40_000,
        sized(b"no gzip", b"content-encoding: gzip"),
        sized(gzip.compress(b"page")[:-5], b"content-encoding: gzip"),
        sized(b"x", b"content-encoding: br"),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(NotHttpError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"content-length: 1001\r\n\r\n",
        OK + b"content-length: 999999999999999\r\n\r\n",
        OK + b"\r\n" + b"x" * 1001,
        OK + b"transfer-encoding: chunked\r\n\r\nffffffff\r\n",
        chunked(b"x" * 600, b"y" * 600),
        sized(gzip.compress(bytes(100_000)), b"content-encoding: gzip"),
    ],
)
def test_too_large(data: bytes) -> None:
    with pytest.raises(TooLargeError):
        read(data)


def test_a_byte_at_a_time_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_reply, "MAX_CHUNKS", 50)
    assert read(chunked(*[b"x"] * 50)) is not None
    with pytest.raises(NotHttpError, match="pieces"):
        read(chunked(*[b"x"] * 51))


@given(st.binary(max_size=300), st.integers(1, 50))
def test_garbage_behind_a_good_beginning(data: bytes, step: int) -> None:
    for head in (OK, OK + b"transfer-encoding: chunked\r\n\r\n", OK + b"content-encoding: gzip\r\n\r\n", b""):
        try:
            reply = read(head + data, end=True, step=step)
        except PointsmanError:
            continue
        assert reply is None or len(reply.body) <= LIMIT


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=10), st.integers(1, 400))
def test_chunks_come_back_whole_however_they_are_cut(pieces: list[bytes], step: int) -> None:
    assert read(chunked(*pieces), step=step) == Reply(200, b"".join(pieces), True)


@given(st.binary(max_size=LIMIT), st.integers(1, 400))
def test_a_body_comes_back_whole_however_it_is_cut(body: bytes, step: int) -> None:
    assert read(sized(body), step=step) == Reply(200, body, True)
    assert read(sized(gzip.compress(body), b"content-encoding: gzip"), step=step) == Reply(200, body, True)
