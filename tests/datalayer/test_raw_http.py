"""Against real servers on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pointsman.datalayer.http_reply import NotHttpError
from pointsman.datalayer.raw_http import PodConnection

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each connection with a coroutine; keeps the questions."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.connections = 0
        self.questions: list[bytes] = []
        self.lost = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = self._answers[min(self.connections, len(self._answers) - 1)]
        self.connections += 1
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def run(self, story: Callable[[PodConnection], Awaitable[None]]) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            connection = PodConnection("127.0.0.1", server.sockets[0].getsockname()[1], 1000, self._note_loss)
            try:
                await story(connection)
            finally:
                connection.close()
                server.close()
                await server.wait_closed()

        asyncio.run(main())

    def _note_loss(self) -> None:
        self.lost += 1

    def times(self, count: int) -> Answer:
        """Answer so often, then close."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(count):
                self.questions.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(OK)
                await writer.drain()

        return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the code under test
            await asyncio.sleep(0.005)


def test_one_connection_serves_many_questions() -> None:
    server = Server()
    server._answers = [server.times(1000)]

    async def story(connection: PodConnection) -> None:
        for _ in range(5):
            reply = await connection.get("/metrics")
            assert (reply.status, reply.body) == (200, b"ok")
        assert (await connection.get("/v1/models")).status == 200

    server.run(story)
    assert server.connections == 1
    assert server.questions[0].startswith(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Accept-Encoding: identity\r\n" in server.questions[0]
    assert server.questions[-1].startswith(b"GET /v1/models ")


def test_a_connection_closed_in_between_is_told_and_made_anew() -> None:
    server = Server()
    server._answers = [server.times(1)]

    async def story(connection: PodConnection) -> None:
        assert (await connection.get("/metrics")).status == 200
        await until(lambda: server.lost == 1)
        assert (await connection.get("/metrics")).status == 200

    server.run(story)
    assert server.connections == 2


def test_a_connection_closed_as_the_question_is_asked_is_made_anew() -> None:
    """The server's end crosses our question: it was sent, nothing came back."""
    server = Server()

    async def once_and_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.times(1)(reader, writer)
        await reader.readuntil(b"\r\n\r\n")  # the second question goes unanswered

    server._answers = [once_and_no_more, server.times(10)]

    async def story(connection: PodConnection) -> None:
        assert (await connection.get("/metrics")).status == 200
        assert (await connection.get("/metrics")).status == 200
        assert server.lost == 0

    server.run(story)
    assert server.connections == 2


def test_an_answer_broken_off_is_an_error_and_not_asked_again() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK[:-1])
        await writer.drain()

    server = Server(half)

    async def story(connection: PodConnection) -> None:
        with pytest.raises(ConnectionResetError):
            await connection.get("/metrics")

    server.run(story)
    assert server.connections == 1


def test_nobody_listens() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await PodConnection("127.0.0.1", port, 1000).get("/metrics")

    asyncio.run(main())


def test_an_answer_nobody_waited_for_is_never_taken_for_the_next_one() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.write(OK.replace(b"200", b"500"))
        await writer.drain()
        await reader.read()

    server = Server()
    server._answers = [late, server.times(1)]

    async def story(connection: PodConnection) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.get("/metrics")
        assert (await connection.get("/metrics")).status == 200
        await asyncio.sleep(0.15)

    server.run(story)


def test_words_that_nobody_asked_for_end_the_connection() -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(OK)
        await writer.drain()
        await reader.read()

    server = Server()
    server._answers = [chatty, server.times(1)]

    async def story(connection: PodConnection) -> None:
        await connection.get("/metrics")
        await until(lambda: connection._line is None)
        assert (await connection.get("/metrics")).body == b"ok"

    server.run(story)


def test_no_http() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        await reader.read()

    async def story(connection: PodConnection) -> None:
        with pytest.raises((NotHttpError, ConnectionError)):
            await connection.get("/metrics")

    Server(shout).run(story)
