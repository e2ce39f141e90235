"""The local tokenizer in threads of its own, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from pointsman.api.request import InferenceRequest
from pointsman.requestcontrol.tokenizing.guard import Guard
from pointsman.requestcontrol.tokenizing.local import LocalTokenizer, Prepared
from pointsman.requestcontrol.tokenizing.prompts import read_prompt, readable
from pointsman.requestcontrol.tokenizing.result import TooSlowError, UnableError, WayName

MAX_BODY_BYTES = 1024 * 1024
"""Longer bodies are not tokenized: a quarter of a million tokens take 0.3 s and more."""

MAX_WAITING = 64
"""Prompts in line; beyond that none would be in time."""

T = TypeVar("T")


class LocalWay:
    """Tokenizes in one or two threads.

    How long a prompt will take is known once its text is there and the known pieces are found, so the guard is asked
    then, by the characters left. A prompt that is skipped or given up is tokenized all the same when a thread is free:
    the next turn of the conversation finds it known.
    """

    name: WayName = "exact-local"

    def __init__(self, tokenizer: LocalTokenizer, guard: Guard, now: Callable[[], float], *, threads: int = 2) -> None:
        self._tokenizer = tokenizer
        self._guard = guard
        self._now = now
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
        self._lock = Lock()
        self._waiting = 0
        self._closed = False

    async def tokens(self, request: InferenceRequest, body: bytes) -> tuple[int, ...]:
        """The ids of a request's prompt.

        Raises:
            UnableError: the prompt is none that can be tokenized here.
            TooSlowError: there is too much to be done, or too long a line.
        """
        if len(body) > MAX_BODY_BYTES or not readable(request.path):
            raise UnableError("too long, or of a kind that is not tokenized here")
        if self._closed or self._waiting >= MAX_WAITING:
            raise TooSlowError
        start = self._now()
        future = self._submit(lambda: self._work(request.path, body, start))
        result = await asyncio.wrap_future(future)  # cancelled while in line, it is never begun
        if isinstance(result, Prepared):
            self._warm(result)
            raise TooSlowError
        return result

    def stats(self) -> dict[str, float]:
        """Figures of the piece cache, and the 95th percentile in milliseconds."""
        cache = self._tokenizer.cache
        return {
            "p95_ms": self._guard.p95(self._now()),
            "pieces": len(cache),
            "bytes": cache.bytes,
            "hits": cache.hits,
            "misses": cache.misses,
        }

    async def close(self) -> None:
        """End the threads once the prompts in hand are done; those in line are dropped."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    def _work(self, path: str, body: bytes, start: float) -> tuple[int, ...] | Prepared:
        prompt = read_prompt(path, body)
        if prompt is None:
            raise UnableError("the prompt's tokens are not its text's alone")
        try:
            prepared = self._tokenizer.prepare(prompt)
            if not self._guard.allows(prepared.fresh, self._now()):
                return prepared
            ids = tuple(self._tokenizer.finish(prepared))
        except Exception as error:
            raise UnableError(str(error)) from error
        now = self._now()
        self._guard.note(prepared.fresh, (now - start) * 1000, now)
        return ids

    def _warm(self, prepared: Prepared) -> None:
        # One thread stays free for those who wait.
        if self._waiting < max(1, self._threads - 1) and not self._closed:
            self._submit(lambda: self._tokenizer.finish(prepared))

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            self._waiting += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._waiting -= 1
