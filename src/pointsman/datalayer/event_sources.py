"""Asks a pod where it publishes its KV-cache events: vLLM's ``/kv_event_sources``, SGLang's ``/server_info``."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

TIMEOUT = 2.0
MAX_ANSWER_BYTES = 1024 * 1024
_PATHS = ("/kv_event_sources", "/server_info")


class EventSourceReader:
    """Made and used on one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def read(self, hostport: str) -> Any:
        """The first JSON answer that is not empty; None when the pod has none.

        Raises:
            OSError, TimeoutError: the pod cannot be asked.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "pointsman"},
            )
        for path in _PATHS:
            try:
                found = await _get(self._session, f"http://{hostport}{path}")
            except aiohttp.ClientError as error:
                raise OSError(f"{hostport}{path}: {error!r}") from error
            if found:
                return found
        return None

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            return None
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return None
