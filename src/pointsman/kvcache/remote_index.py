"""Asks indexers outside the picker what endpoints hold of a prompt: within a deadline, and not while they fail.

Two milliseconds of a request are worth an exact answer; two hundred are not. So nothing is asked twice, nothing waits
in line, and an indexer that failed some times in a row is left alone but for one probe a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import aiohttp

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.kv import RemoteMatch, RemoteMatches
from pointsman.framework.observer import Observer
from pointsman.kvcache.breaker import Breaker
from pointsman.kvcache.remote_wire import (
    MAX_ANSWER_BYTES,
    BadAnswerError,
    PodNames,
    UnaskableError,
    question,
    read_answer,
)

CONNECTIONS = 32
"""Questions under way at once; whoever comes then does without."""
IDLE_SECONDS = 30.0
"""After which we close a connection: before the indexer does, so that a question never meets a closing one."""
GIVE_UP_SECONDS = 1.0
"""After which a question is dropped, with its connection. One that is merely late is read to its end, though nobody
waits any more: a connection closed at every missed deadline has to be made anew, which makes the next one late, too."""
NAMES_SECONDS = 60
"""How long the address of a host name is believed in."""
UNABLE_SECONDS = 60.0
"""How long an indexer that said it has no tokenizer is not asked about prompts."""

LATE, FAILED, NO_TOKENS = "indexer-late", "indexer-error", "indexer-no-tokens"


class _RefusedError(Exception):
    """Refused, which says nothing of the indexer's health."""


class _UnavailableError(Exception):
    """The indexer cannot answer now."""


class IndexerClient:
    """Asks one indexer. Made anywhere; used on one event loop.

    Args:
        url: base address.
        timeout: seconds a request waits at the most.
        observer: told of every decision that has to do without.
        now: real seconds, like the network's.
    """

    def __init__(
        self, url: str, timeout: float, observer: Observer, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._url = url.rstrip("/") + "/query"
        self._timeout, self._observer, self._now = timeout, observer, now
        self._breaker = Breaker()
        self._why_open = FAILED
        self._unable_until = float("-inf")
        self._under_way: set[asyncio.Task[bytes]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._seen: Sequence[Endpoint] = ()
        self._names = PodNames(())
        self.counts: Counter[str] = Counter()
        """Questions by what came of them: ``answered``, ``asked``, and what is counted as degraded."""

    def why_not(self, request: InferenceRequest) -> str | None:
        """What speaks against asking: a kind of degradation, empty when there is nothing to ask; None for nothing."""
        now = self._now()
        if request.token_ids is None:
            if not request.prompt:
                return ""
            if now < self._unable_until:
                return NO_TOKENS
        elif not len(request.token_ids):
            return ""
        if self._breaker.is_open(now):
            return self._why_open
        return LATE if len(self._under_way) >= CONNECTIONS else None

    def note(self, why: str) -> None:
        """Count a decision that does without."""
        if why:
            self.counts[why] += 1
            self._observer.degraded(why)

    async def ask(self, request: InferenceRequest, body: bytes, endpoints: Sequence[Endpoint]) -> RemoteMatch | None:
        """What the endpoints hold of a request's prompt; None when that is not to be had in time."""
        why = self.why_not(request)
        if why is None:
            try:
                asked = question(request, body, endpoints)
            except UnaskableError:
                why = NO_TOKENS
            else:
                why = None if self._breaker.enter(self._now()) else self._why_open
        if why is not None:
            self.note(why)
            return None
        self.counts["asked"] += 1
        return await self._answer(asked, endpoints)

    async def close(self) -> None:
        """Close all connections."""
        under_way = tuple(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _answer(self, asked: bytes, endpoints: Sequence[Endpoint]) -> RemoteMatch | None:
        task = asyncio.get_running_loop().create_task(self._post(asked))
        self._under_way.add(task)
        task.add_done_callback(self._over)
        try:
            done, _ = await asyncio.wait((task,), timeout=self._timeout)
            if not done or task.cancelled():
                raise TimeoutError  # noqa: TRY301 - late by this clock or by the network's is the same
            match = read_answer(task.result(), self._names_of(endpoints))
        except _RefusedError:
            self._breaker.succeeded()
            self.note(NO_TOKENS)
            return None
        except (TimeoutError, _UnavailableError):
            self._failed(LATE)
            return None
        except (aiohttp.ClientError, OSError, ValueError, BadAnswerError):
            self._failed(FAILED)
            return None
        self._breaker.succeeded()
        self.counts["answered"] += 1
        return match

    def _over(self, task: asyncio.Task[bytes]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else may have looked at it

    async def _post(self, asked: bytes) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS, keepalive_timeout=IDLE_SECONDS, ttl_dns_cache=NAMES_SECONDS
                ),
                timeout=aiohttp.ClientTimeout(total=max(GIVE_UP_SECONDS, self._timeout)),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json", "User-Agent": "pointsman"},
            )
        data = bytearray()
        async with self._session.post(self._url, data=asked, allow_redirects=False) as response:
            if response.status == 422:
                self._unable_until = self._now() + UNABLE_SECONDS
            if response.status in {400, 413, 422}:
                raise _RefusedError
            if response.status == 503:
                raise _UnavailableError
            if response.status != 200:
                raise BadAnswerError(f"status {response.status}")
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise BadAnswerError("too long")
        return bytes(data)

    def _failed(self, why: str) -> None:
        self._why_open = why
        self._breaker.failed(self._now())
        self.note(why)

    def _names_of(self, endpoints: Sequence[Endpoint]) -> PodNames:
        # The datastore hands out the same tuple until something changes; 500 endpoints take 0.4 ms to name.
        if endpoints is not self._seen:
            self._seen, self._names = endpoints, PodNames(endpoints)
        return self._names


class RemoteIndex:
    """Implements :class:`pointsman.framework.kv.RemoteKv` over the indexers of a plan.

    Args:
        clients: each with the names of the producers that want its answers.
    """

    def __init__(self, clients: Iterable[tuple[IndexerClient, Sequence[str]]]) -> None:
        self._clients = tuple(clients)

    def passes(self, request: InferenceRequest) -> bool:
        """See :meth:`pointsman.framework.kv.RemoteKv.passes`."""
        reasons = []
        for client, _ in self._clients:
            why = client.why_not(request)
            if why is None:
                return False
            reasons.append((client, why))
        for client, why in reasons:
            client.note(why)
        return True

    async def ask(self, request: InferenceRequest, body: bytes, endpoints: Sequence[Endpoint]) -> RemoteMatches:
        """See :meth:`pointsman.framework.kv.RemoteKv.ask`; several indexers are asked at once."""
        if len(self._clients) == 1:
            answers = [await self._clients[0][0].ask(request, body, endpoints)]
        else:
            answers = await asyncio.gather(*(client.ask(request, body, endpoints) for client, _ in self._clients))
        pairs = zip(self._clients, answers, strict=True)
        return {name: answer for (_, names), answer in pairs if answer is not None for name in names}
