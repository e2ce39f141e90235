"""Token ids for requests: the ways in turn, within one time budget, saying which way it was and whether it was late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from pointsman.api.request import InferenceRequest
from pointsman.requestcontrol.tokenizing.estimate import Estimate
from pointsman.requestcontrol.tokenizing.result import AwayError, Tokenization, TokenWay, TooSlowError, UnableError

BUDGET_MS = 8.0


class Tokenizing:
    """Finds out the tokens of requests. Belongs to one event loop; blocks it never.

    The budget holds for all ways together. Times are real seconds of ``now``, whatever clock the picker goes by: a
    tokenizer is no faster in front of simulated engines.
    """

    def __init__(
        self,
        ways: Sequence[TokenWay] = (),
        *,
        budget_ms: float = BUDGET_MS,
        estimate: Estimate | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Set up.

        Args:
            ways: exact ways, in the order in which they are asked; the estimate comes after them by itself.
            budget_ms: longest wait for a request.
            estimate: the last resort.
            now: real seconds.
        """
        self._ways = tuple(ways)
        self._budget = budget_ms / 1000
        self._estimate = estimate or Estimate()
        self._now = now
        self.counts: Counter[str] = Counter()
        """Prompts by the way that told, and ``WAY-late``, ``WAY-skipped``, ``WAY-unable``, ``WAY-failed`` by way."""

    @property
    def able(self) -> bool:
        """Whether there is any exact way."""
        return bool(self._ways)

    def immediate(self, request: InferenceRequest) -> Tokenization | None:
        """The result for a request that needs no waiting, or None when :meth:`tokens` has to be awaited."""
        if request.token_ids is not None:
            self.counts["client"] += 1
            return Tokenization(way="client", prompt_tokens=len(request.token_ids), token_ids=request.token_ids)
        if not self._ways or not request.prompt:
            return self._guess(request, late=False, start=self._now())
        return None

    async def tokens(self, request: InferenceRequest, body: bytes, deadline: float | None = None) -> Tokenization:
        """The tokens of a request's prompt, in time. Never raises but when cancelled.

        Args:
            request: as parsed from ``body``.
            body: as the client sent it.
            deadline: by ``now``; the budget from now on when None.
        """
        done = self.immediate(request)
        if done is not None:
            return done
        start = self._now()
        deadline = start + self._budget if deadline is None else deadline
        late = away = False
        problems: list[str] = []
        for way in self._ways:
            try:
                ids = await self._ask(way, request, body, deadline)
            except TimeoutError:
                late = True
                self.counts[f"{way.name}-late"] += 1
                problems.append(f"{way.name}: no answer within the budget")
            except TooSlowError:
                late = True
                self.counts[f"{way.name}-skipped"] += 1
                problems.append(f"{way.name}: too slow lately, or too long a line")
            except UnableError as error:
                away = away or isinstance(error, AwayError)
                self.counts[f"{way.name}-unable"] += 1
                problems.append(f"{way.name}: {error}")
            except Exception as error:  # noqa: BLE001 - less knowledge, never a stall
                self.counts[f"{way.name}-failed"] += 1
                problems.append(f"{way.name}: {error!r}")
            else:
                self.counts[way.name] += 1
                ms = (self._now() - start) * 1000
                return Tokenization(way=way.name, prompt_tokens=len(ids), token_ids=ids, late=late, ms=ms)
        guess = self._guess(request, late=late, start=start)
        return replace(guess, away=away, problems=tuple(problems))

    async def _ask(self, way: TokenWay, request: InferenceRequest, body: bytes, deadline: float) -> tuple[int, ...]:
        remaining = deadline - self._now()
        if remaining <= 0:
            raise TimeoutError
        async with asyncio.timeout(remaining):
            return await way.tokens(request, body)

    def stats(self) -> dict[str, Any]:
        """Counts, and what each way says of itself."""
        return {"counts": dict(self.counts), "ways": {way.name: way.stats() for way in self._ways}}

    async def close(self) -> None:
        """Let go of threads and connections."""
        for way in self._ways:
            await way.close()

    def _guess(self, request: InferenceRequest, *, late: bool, start: float) -> Tokenization:
        self.counts["estimate"] += 1
        ms = (self._now() - start) * 1000
        return Tokenization(way="estimate", prompt_tokens=self._estimate.tokens(request), late=late, ms=ms)


def enrich(request: InferenceRequest, result: Tokenization) -> InferenceRequest:
    """The request with what is known of its tokens; the same one when nothing new is."""
    if result.token_ids is None and result.prompt_tokens == request.prompt_tokens:
        return request
    if result.token_ids is not None and result.token_ids is request.token_ids:
        return request
    return replace(request, token_ids=result.token_ids, prompt_tokens=result.prompt_tokens)
