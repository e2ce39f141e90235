"""An index as a service on loopback, and a client for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp

from pointsman.app.indexer import Indexer, IndexerOptions

LOCAL = "127.0.0.1"
TOKENS = list(range(64))
CREATED = {"type": "block_created", "block_hashes": [1, 2, 3, 4], "token_ids": TOKENS, "block_size": 16}


class Client:
    """Speaks to one service."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session, self._base = session, f"http://{LOCAL}:{port}"

    async def get(self, path: str) -> bytes:
        async with self._session.get(self._base + path) as response:
            assert response.status == 200
            return await response.read()

    async def send(self, path: str, body: bytes, **more: Any) -> tuple[int, Any]:
        async with self._session.post(self._base + path, data=body, **more) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        return await self.send(path, json.dumps(body).encode(), **more)

    async def matched(self, pod: str, tokens: list[int] = TOKENS, model: str = "m") -> tuple[int, float]:
        _, found = await self.post("/query", {"model": model, "token_ids": tokens, "pods": [pod]})
        return found["pods"][pod]["matched_blocks"], found["pods"][pod]["confidence"]


def serve(work: Callable[[Indexer, Client], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        service = Indexer(IndexerOptions(port=0, **options))
        await service.start()
        try:
            async with aiohttp.ClientSession() as session:
                await work(service, Client(session, service.port))
        finally:
            await service.stop()

    asyncio.run(main())


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - conditions are of any kind
            await asyncio.sleep(0.01)
