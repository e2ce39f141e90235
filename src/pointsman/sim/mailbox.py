"""Where a request's handler waits for news from the engine."""

from __future__ import annotations

import asyncio

from pointsman.sim.emission import Emission


class Mailbox:
    """Holds the latest news of one request. News are cumulative, so a slow reader gets several tokens at once."""

    __slots__ = ("_arrived", "_latest")

    def __init__(self, request_id: str) -> None:
        self._latest = Emission(request_id, 0, 0)
        self._arrived = asyncio.Event()

    def put(self, emission: Emission) -> None:
        if not self._latest.finished:
            self._latest = emission
            self._arrived.set()

    def end(self, reason: str) -> None:
        """Nothing more will come."""
        last = self._latest
        self.put(Emission(last.request_id, last.outputs, last.cached, reason))

    async def get(self) -> Emission:
        """Wait for news since the last call."""
        await self._arrived.wait()
        self._arrived.clear()
        return self._latest
