"""Open-loop load: requests leave at their appointed times, whatever became of those before.

A closed loop would wait for slow answers and so hide the queue that a slow scheduler builds ("coordinated omission");
here the time to first token counts from the appointed time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
import msgspec

from pointsman.requestcontrol.usage import UsageTail

_HEADERS = {"content-type": "application/json"}


class Shot(msgspec.Struct, frozen=True):
    """One request to send: ``at`` real seconds after the start."""

    at: float
    body: bytes


class Result(msgspec.Struct):
    """What the client saw of one request; times in real seconds since its appointed time."""

    status: int = 0
    ttft: float | None = None
    total: float | None = None
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    ended_at: float = 0.0
    """Seconds since the start of the run."""
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and self.status == 200


async def fire(
    url: str,
    shots: Sequence[Shot],
    timeout: float,  # noqa: ASYNC109 - of one answer, not of this call
    progress: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Send every shot at its time and wait for all answers.

    Args:
        url: where to POST.
        shots: in order of time.
        timeout: real seconds that one answer may take.
        progress: called with 1 for every answer.
    """
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0)
    limit = aiohttp.ClientTimeout(total=timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=limit, auto_decompress=False) as session:
        start = loop.time()

        async def one(shot: Shot) -> Result:
            result = await _send(session, url, shot, start)
            progress(1)
            return result

        tasks = []
        for shot in shots:
            delay = start + shot.at - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            tasks.append(asyncio.create_task(one(shot)))
        return list(await asyncio.gather(*tasks))


async def _send(session: aiohttp.ClientSession, url: str, shot: Shot, start: float) -> Result:
    loop = asyncio.get_running_loop()
    result = Result()
    began = start + shot.at
    tail = UsageTail()
    try:
        async with session.post(url, data=shot.body, headers=_HEADERS) as response:
            result.status = response.status
            async for chunk in response.content.iter_any():
                if result.ttft is None and response.status == 200:
                    result.ttft = loop.time() - began
                tail.feed(chunk)
            if response.status == 200 and not tail.ends_with(b"data: [DONE]\n\n"):
                result.error = "the stream ended before [DONE]"
    except TimeoutError:
        result.error = "timeout"
    except (aiohttp.ClientError, OSError) as error:
        result.error = f"{type(error).__name__}: {error}"
    result.total = loop.time() - began
    result.ended_at = loop.time() - start
    usage = tail.read()
    result.output_tokens = usage.output_tokens or 0
    result.prompt_tokens = usage.prompt_tokens or 0
    result.cached_tokens = usage.cached_tokens or 0
    return result


async def get_json(url: str) -> dict[str, object]:
    """GET a JSON object."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        data: dict[str, object] = msgspec.json.decode(await response.read())
        return data


async def get_text(url: str) -> str:
    """GET a page."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()
