"""Asks a pod, over its own API, which models it serves and where it publishes its KV-cache events."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from pointsman.datalayer.probing import Models, parse_models

TIMEOUT = 2.0
MAX_ANSWER_BYTES = 1024 * 1024
_SOURCES = ("/kv_event_sources", "/server_info")


class PodFacts:
    """Questions to pods. May be made anywhere; used on one event loop, where its first question opens a session."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def models(self, hostport: str) -> Models:
        """What the pod serves; nothing if it does not say.

        Raises:
            OSError: if it cannot be asked.
        """
        body = await self._get(f"http://{hostport}/v1/models")
        return (parse_models(body) if body else None) or Models()

    async def event_sources(self, hostport: str) -> Any:
        """The first JSON answer of vLLM's or SGLang's path that is not empty; None when the pod has none.

        Raises:
            OSError: if it cannot be asked.
        """
        for path in _SOURCES:
            found = _json(await self._get(f"http://{hostport}{path}"))
            if found:
                return found
        return None

    async def _get(self, url: str) -> bytes:
        """The body; empty when there is none to be had, or one that is larger than an answer can be."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "User-Agent": "pointsman"},
            )
        body = bytearray()
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status >= 500:
                    raise OSError(f"{url}: status {response.status}")
                if response.status != 200:
                    return b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        return b""
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"{url}: {error!r}") from error
        return bytes(body)


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body) if body else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
