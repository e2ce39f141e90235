"""Asks an engine and writes down when each piece of its answer came."""

from __future__ import annotations

import asyncio
import statistics
import time
from array import array
from random import Random
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from pointsman.lab.calibrate_fit import CalibrationError

_LOWEST_ID, _HIGHEST_ID = 300, 4000
"""Token ids of probes: text in any vocabulary, no specials."""
_PINGS = 5


class Reply(msgspec.Struct):
    """One answer. Times are seconds of one monotonic clock.

    Attributes:
        sent: when the request left.
        times: when each chunk with a token came.
        outputs: tokens of the answer.
        prompt_tokens: as the engine counted them.
        cached: of those found in its cache; None when it does not tell.
    """

    sent: float
    times: list[float] = []
    outputs: int = 0
    prompt_tokens: int = 0
    cached: int | None = None


class ProbeClient:
    """An HTTP client of one engine, used as an async context manager.

    Args:
        url: of the engine, such as ``http://10.0.0.1:8000``.
        model: served name; empty: the first that the engine names.
        seed: of the prompts.
        timeout: seconds one answer may take.
    """

    def __init__(self, url: str, model: str = "", *, seed: int = 0, timeout: float = 300.0) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.max_length = 0
        self.round_trip = 0.0
        """Seconds a question takes that costs the engine nothing; part of every first token."""
        self._rng = Random(seed)
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ProbeClient:  # noqa: PYI034 - final
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=self._timeout)
        )
        try:
            await self._learn()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self._session is not None
        await self._session.close()

    def prompt(self, tokens: int) -> array[int]:
        """A prompt nobody has sent before."""
        return array("I", self._rng.choices(range(_LOWEST_ID, _HIGHEST_ID), k=tokens))

    async def page(self) -> str:
        """The metrics page, empty if there is none."""
        assert self._session is not None
        async with self._session.get(f"{self.url}/metrics") as response:
            return await response.text() if response.status == 200 else ""

    async def ask(self, prompt: array[int], outputs: int) -> Reply:
        """Stream one answer.

        Raises:
            CalibrationError: if the engine refuses, does not stream, or cannot be reached.
        """
        body = {
            "model": self.model,
            "prompt": prompt.tolist(),
            "max_tokens": outputs,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        assert self._session is not None
        reply = Reply(time.monotonic(), times=[])
        try:
            async with self._session.post(
                f"{self.url}/v1/completions",
                data=msgspec.json.encode(body),
                headers={"content-type": "application/json"},
            ) as response:
                if response.status != 200:
                    text = (await response.text())[:300]
                    raise CalibrationError(f"{self.url} answered {response.status} to a probe: {text}")
                if "event-stream" not in response.headers.get("content-type", ""):
                    raise CalibrationError(f"{self.url} does not stream: calibrating needs the time of every token")
                await _read(response, reply)
        except (aiohttp.ClientError, OSError) as error:
            raise CalibrationError(f"{self.url} cannot be reached: {str(error) or type(error).__name__}") from error
        if not reply.times:
            raise CalibrationError(f"{self.url} streamed an answer without a token")
        reply.outputs = reply.outputs or len(reply.times)
        reply.prompt_tokens = reply.prompt_tokens or len(prompt)
        return reply

    async def _learn(self) -> None:
        """The model's name, its longest prompt and the round trip."""
        trips = []
        for _ in range(_PINGS):
            began = time.monotonic()
            data = await self._models()
            trips.append(time.monotonic() - began)
        self.round_trip = statistics.median(trips)
        known = {str(one.get("id")): one for one in data}
        if not known:
            raise CalibrationError(f"{self.url} names no model at /v1/models")
        self.model = self.model or next(iter(known))
        if self.model not in known:
            raise CalibrationError(f"{self.url} has no model {self.model!r}; it has {', '.join(known)}")
        self.max_length = int(known[self.model].get("max_model_len") or 0)

    async def _models(self) -> list[dict[str, Any]]:
        assert self._session is not None
        try:
            async with self._session.get(f"{self.url}/v1/models") as response:
                body = await response.read()
            data = msgspec.json.decode(body)
        except (aiohttp.ClientError, OSError) as error:
            raise CalibrationError(f"{self.url} cannot be reached: {str(error) or type(error).__name__}") from error
        except msgspec.DecodeError as error:
            raise CalibrationError(f"{self.url} is no model server: /v1/models is not JSON") from error
        found = data.get("data") if isinstance(data, dict) else None
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


async def _read(response: aiohttp.ClientResponse, reply: Reply) -> None:
    left = b""
    async for data in response.content.iter_any():
        now = time.monotonic()
        *events, left = (left + data).split(b"\n\n")
        for event in events:
            payload = event.removeprefix(b"data: ")
            if payload == b"[DONE]" or not payload.startswith(b"{"):
                continue
            _note(msgspec.json.decode(payload), reply, now)
    await asyncio.sleep(0)


def _note(chunk: dict[str, Any], reply: Reply, now: float) -> None:
    if chunk.get("choices"):
        reply.times.append(now)
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        reply.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        reply.outputs = int(usage.get("completion_tokens") or 0)
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        reply.cached = int(cached) if cached is not None else None
