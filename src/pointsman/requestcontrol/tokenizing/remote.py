"""Exact token ids from an engine: vLLM's ``…/render``, or ``/tokenize``, over HTTP.

``/render`` takes the body as the client wrote it, media included, but answers 403 unless the server was started with
``--enable-scale-out`` (or is ``vllm launch render``); ``/tokenize`` is always there and knows text only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import aiohttp
import msgspec

from pointsman.api.request import InferenceRequest
from pointsman.requestcontrol.tokenizing.guard import Guard
from pointsman.requestcontrol.tokenizing.prompts import ChatPrompt, read_prompt
from pointsman.requestcontrol.tokenizing.result import AwayError, TooSlowError, UnableError, WayName

MAX_ANSWER_BYTES = 16 * 1024 * 1024
CONNECTIONS = 32
RETRY_SECONDS = 60.0
"""How long an endpoint that is not there is not asked again."""
KEEP_ALIVE = 4.0
"""Seconds a connection is kept unused: vLLM closes its own after five, and a question sent just then is lost."""
_NO_MODEL = b"NotFoundError"
"""What vLLM's 404 says when it is the model that is not there."""

_RENDERED = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
"""Paths that have a ``/render``. The client's own path is never part of an address: it may hold anything."""

Endpoint = Literal["auto", "render", "tokenize"]


class _Ids(msgspec.Struct):
    token_ids: list[int] | None = None
    tokens: list[int] | None = None


class EngineWay:
    """Asks one server. Made and used on one event loop."""

    name: WayName = "engine"

    def __init__(
        self,
        url: str | Callable[[], str | None],
        guard: Guard,
        now: Callable[[], float],
        *,
        endpoint: Endpoint = "auto",
        timeout: float = 5.0,
        mm_timeout: float = 30.0,
        model: str = "",
    ) -> None:
        """Set up, without touching the network.

        Args:
            url: base address, or what tells one for each question (None when there is nobody to ask).
            guard: says when to spare the wait.
            now: seconds; real time, like the network's.
            endpoint: ``auto`` asks ``/render`` and, where that is not there, ``/tokenize``.
            timeout: seconds one question may take at the most, whatever the budget.
            mm_timeout: the same for prompts with media.
            model: name to ask under; the request's target model when empty.
        """
        self._address = url
        self._guard = guard
        self._now = now
        self._endpoint = endpoint
        self._timeout, self._mm_timeout = timeout, mm_timeout
        self._model = model
        self._no_render_until = float("-inf")
        self._session: aiohttp.ClientSession | None = None

    async def tokens(self, request: InferenceRequest, body: bytes) -> tuple[int, ...]:
        """Ask for the ids of a request's prompt.

        Raises:
            UnableError: the server did not say, or was asked in vain.
            TooSlowError: it has been too slow lately.
        """
        start = self._now()
        if not self._guard.allows(len(body), start):
            raise TooSlowError
        # One question may take two posts, which must go to the same server, whatever the next request asks.
        url = self._address if isinstance(self._address, str) else self._address() or ""
        if not url:
            raise AwayError("no server to ask")
        url = url.rstrip("/")
        try:
            ids = await self._ask(url, request, body)
        except (asyncio.CancelledError, TimeoutError):
            self._note(body, start, self._guard.budget_ms * 1.01)  # given up: it would have taken longer than that
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise AwayError(f"{url}: {error!r}") from error
        self._note(body, start)
        return ids

    def _note(self, body: bytes, start: float, at_least: float = 0.0) -> None:
        now = self._now()
        self._guard.note(len(body), max((now - start) * 1000, at_least), now)

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def stats(self) -> dict[str, float]:
        """The 95th percentile of the answers, in milliseconds."""
        return {"p95_ms": self._guard.p95(self._now())}

    async def _ask(self, url: str, request: InferenceRequest, body: bytes) -> tuple[int, ...]:
        model = self._model or request.target_model or request.model
        path = next((path for path in _RENDERED if request.path.endswith(path.removeprefix("/v1"))), None)
        if path is not None and self._endpoint != "tokenize" and self._now() >= self._no_render_until:
            status, answer = await self._post(f"{url}{path}/render", _renamed(body, model, request.model))
            if status == 200:
                return _ids(answer)
            if status in {403, 404, 405} and not (status == 404 and _NO_MODEL in answer):
                self._no_render_until = self._now() + RETRY_SECONDS
            elif self._endpoint == "render":
                raise _refused(f"{url}{path}/render", status)
        if self._endpoint == "render":
            raise UnableError(f"{url} has no /render")
        status, answer = await self._post(f"{url}/tokenize", _question(request.path, body, model))
        if status != 200:
            raise _refused(f"{url}/tokenize", status)
        return _ids(answer)

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json", "User-Agent": "pointsman"},
            )
        seconds = self._mm_timeout if b'"image_url"' in body or b'"video_url"' in body else self._timeout
        wait = aiohttp.ClientTimeout(total=seconds)
        async with self._session.post(url, data=body, timeout=wait, allow_redirects=False) as response:
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise UnableError(f"{url} answered more than {MAX_ANSWER_BYTES} bytes")
            return response.status, bytes(answer)


def _refused(url: str, status: int) -> UnableError:
    return (AwayError if status >= 500 else UnableError)(f"{url} answered {status}")


def _question(path: str, body: bytes, model: str) -> bytes:
    """What ``/tokenize`` is asked.

    Raises:
        UnableError: it could not tell this prompt's tokens.
    """
    prompt = read_prompt(path, body)
    if prompt is None:
        raise UnableError("/tokenize knows text only")
    if not isinstance(prompt, ChatPrompt):
        return msgspec.json.encode(
            {"model": model, "prompt": prompt.text, "add_special_tokens": prompt.add_special_tokens}
        )
    options = dict(prompt.options)
    question: dict[str, Any] = {
        "model": model,
        "messages": prompt.messages,
        "add_generation_prompt": options.pop("add_generation_prompt"),
        "continue_final_message": prompt.continue_last,
        "add_special_tokens": prompt.add_special_tokens,
        "chat_template_kwargs": options,
    }
    if prompt.tools is not None:
        question["tools"] = prompt.tools
    return msgspec.json.encode(question)


def _renamed(body: bytes, model: str, given: str) -> bytes:
    """The body with the model's name replaced, untouched when it already has it."""
    if model == given:
        return body
    try:
        data = _OBJECT.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UnableError("the body is no JSON object") from error
    return msgspec.json.encode(data | {"model": msgspec.Raw(msgspec.json.encode(model))})


def _ids(answer: bytes) -> tuple[int, ...]:
    """Ids from an answer; a completion's comes as a list of prompts, of which there must be one."""
    try:
        found = _ANSWER.decode(answer)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UnableError("the answer cannot be understood") from error
    one = found[0] if isinstance(found, list) and len(found) == 1 else found
    ids = None if isinstance(one, list) else (one.token_ids if one.token_ids is not None else one.tokens)
    if not ids or not all(0 <= token < 2**32 for token in ids):
        raise UnableError("the answer holds no token ids of one prompt")
    return tuple(ids)


_ANSWER: msgspec.json.Decoder[_Ids | list[_Ids]] = msgspec.json.Decoder(_Ids | list[_Ids])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
