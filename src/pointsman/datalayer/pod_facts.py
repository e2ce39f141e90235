"""Asks a pod, over its own API, which models it serves and where it publishes its KV-cache events."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from pointsman.datalayer.probing import Models, parse_models

MAX_BYTES = 4 * 1024 * 1024
_SOURCES = ("/kv_event_sources", "/server_info")


class PodFacts:
    """Questions to pods; needs a running event loop.

    Args:
        timeout: seconds that an answer may take.
    """

    def __init__(self, timeout: float = 2.0) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": "pointsman"},
        )

    async def close(self) -> None:
        await self._session.close()

    async def models(self, url: str) -> Models:
        """What the pod serves; nothing if it does not say.

        Raises:
            OSError: if it does not answer.
        """
        body = await self._get(url + "/v1/models")
        return (parse_models(body) if body else None) or Models()

    async def event_sources(self, url: str) -> Any:
        """JSON of vLLM's or SGLang's answer, None if it has neither.

        Raises:
            OSError: if it does not answer.
        """
        for path in _SOURCES:
            body = await self._get(url + path)
            if body:
                try:
                    return msgspec.json.decode(body)
                except (msgspec.MsgspecError, UnicodeError, RecursionError):
                    continue
        return None

    async def _get(self, url: str) -> bytes:
        """The body, empty unless the status is 200."""
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status >= 500:
                    raise OSError(f"{url}: status {response.status}")
                body = await response.content.read(MAX_BYTES) if response.status == 200 else b""
                while body and len(body) < MAX_BYTES and (more := await response.content.read(MAX_BYTES - len(body))):
                    body += more
                return body
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"{url}: {error}") from error
