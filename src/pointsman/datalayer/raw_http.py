"""GET over HTTP/1.1 on one kept-alive connection: what reading a hundred pods needs, and nothing else.

A general client spends longer on a reading than a look at the page takes (aiohttp; bench/scrape.py prints both). This
one asks, collects the pieces, and hands over the body.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from pointsman.datalayer.http_reply import Reply, ReplyReader
from pointsman.errors import PointsmanError

_FIELDS = (
    "Accept: text/plain;version=0.0.4, application/json;q=0.9\r\n"
    "Accept-Encoding: identity\r\n"  # compressing would cost the engine's API server more than the bytes
    "User-Agent: pointsman\r\n"
)


class PodConnection:
    """Asks one server, one question at a time, over a connection that is kept.

    Args:
        host: IP address.
        port: its port.
        limit: bytes that an answer's body may have.
        on_lost: called when the server closes the connection while nothing is asked.
        timer: real seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        limit: int,
        on_lost: Callable[[], None] = lambda: None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._host, self._port, self._limit, self._on_lost = host, port, limit, on_lost
        self.timer = timer
        self._place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._questions: dict[str, bytes] = {}
        self._line: _Line | None = None
        self.busy = 0.0
        """Seconds spent on putting answers together, all told."""

    async def get(self, path: str) -> Reply:
        """Ask for a path. The caller sets the time limit; an answer that was not waited for ends the connection.

        Raises:
            OSError: no connection, or it broke.
            NotHttpError: the answer cannot be understood.
            TooLargeError: it is too long.
        """
        try:
            line = self._line
            if line is not None:
                try:
                    return await line.ask(self._question(path), self._limit)
                except ConnectionError:
                    if line.heard:
                        raise
                    # The server had closed the old connection, as servers do after some idle seconds.
            _, line = await asyncio.get_running_loop().create_connection(lambda: _Line(self), self._host, self._port)
            self._line = line
            return await line.ask(self._question(path), self._limit)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        line, self._line = self._line, None
        if line is not None:
            line.abort()

    def lost(self, line: _Line, *, asked: bool) -> None:
        """A connection is gone; ``asked`` when an answer was waited for."""
        if self._line is line:
            self._line = None
            if not asked:
                self._on_lost()

    def _question(self, path: str) -> bytes:
        question = self._questions.get(path)
        if question is None:
            question = self._questions[path] = f"GET {path} HTTP/1.1\r\nHost: {self._place}\r\n{_FIELDS}\r\n".encode()
        return question


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, owner: PodConnection) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._reader: ReplyReader | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self.heard = False
        """Whether anything was heard since the last question."""

    async def ask(self, question: bytes, limit: int) -> Reply:
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("the server closed the connection")
        self.heard = False
        self._reader = ReplyReader(limit)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            transport.write(question)
            return await self._waiter
        finally:
            self._waiter = self._reader = None

    def abort(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        start = self._owner.timer()
        waiter, reader = self._waiter, self._reader
        if waiter is None or reader is None or waiter.done():
            self._owner.close()  # nobody asked
            return
        self.heard = True
        try:
            reply = reader.feed(data)
        except PointsmanError as error:
            waiter.set_exception(error)
        else:
            if reply is not None:
                if not reply.keep:
                    self._owner.close()
                waiter.set_result(reply)
        self._owner.busy += self._owner.timer() - start

    def connection_lost(self, exc: Exception | None) -> None:
        waiter, reader = self._waiter, self._reader
        self._transport = None
        self._owner.lost(self, asked=waiter is not None)
        if waiter is None or waiter.done():
            return
        try:
            reply = reader.eof() if reader is not None and exc is None else None
        except PointsmanError as error:
            waiter.set_exception(error)
            return
        if reply is not None:
            waiter.set_result(reply)
        else:
            waiter.set_exception(ConnectionResetError(str(exc or "the server closed the connection")))
