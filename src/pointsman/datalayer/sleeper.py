"""Sleep that can be cut short, at a tenth of what an event and a time-out cost."""

from __future__ import annotations

import asyncio

MIN_PAUSE = 0.01
"""Seconds that every sleep lasts: reports of failures may come by the hundred, and each wants a look at once."""


class Sleeper:
    """One sleeping task. A call that comes while it is awake cuts its next sleep short."""

    __slots__ = ("_called", "_earliest", "_waiter")

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._called = False
        self._earliest = 0.0

    def begin(self) -> None:
        """From now on calls are news: what the task is about to look at covers those before."""
        self._called = False

    def wake(self) -> None:
        """End the sleep, or the next one, as soon as it may end."""
        if self._called:
            return
        self._called = True
        if self._waiter is not None:
            asyncio.get_running_loop().call_at(self._earliest, _end, self._waiter)

    async def sleep(self, seconds: float) -> None:
        """Sleep; at least :data:`MIN_PAUSE`, also when called."""
        loop = asyncio.get_running_loop()
        self._earliest = now_earliest = loop.time() + MIN_PAUSE
        self._waiter = waiter = loop.create_future()
        due = now_earliest if self._called else max(now_earliest, now_earliest - MIN_PAUSE + seconds)
        handle = loop.call_at(due, _end, waiter)
        try:
            await waiter
        finally:
            handle.cancel()
            self._waiter = None


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
