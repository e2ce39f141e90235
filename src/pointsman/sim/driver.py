"""Runs a simulated engine on an event loop.

Steps end at absolute deadlines of the engine's own clock, so timer granularity does not add up: a step that is applied
late is followed by one that began on time. When the process cannot keep up at all, the engine's clock falls behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pointsman.sim.emission import Emission
from pointsman.sim.engine import Engine
from pointsman.sim.kv import CacheEvent
from pointsman.sim.sequence import SimRequest


class EngineDriver:
    """One engine, stepping while it has work.

    Args:
        engine: the engine, which nobody else steps.
        loop: the running event loop.
        time_scale: engine seconds per real second.
        deliver: told of every emission, from the loop.
        publish: told of every step's KV-cache events, at the step's end.
    """

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        time_scale: float,
        deliver: Callable[[Emission], None],
        publish: Callable[[list[CacheEvent]], None],
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._scale = time_scale
        self._deliver = deliver
        self._publish = publish
        self._zero = loop.time()
        self._end = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def now(self) -> float:
        """Engine seconds since the driver was made."""
        return (self._loop.time() - self._zero) * self._scale

    def submit(self, request: SimRequest) -> None:
        """Queue a request and see that the engine runs.

        Raises:
            BadRequestError: as :meth:`Engine.submit`.
        """
        now = self.now()
        if self._timer is not None:
            # Later than the step's end only when steps are applied late; the engine must not see the future.
            self._engine.submit(request, min(now, self._end))
            return
        now = max(now, self._end)
        self._engine.submit(request, now)
        if not self._stopped:
            self._begin(now)

    def abort(self, request_id: str) -> None:
        """Forget a request; nothing happens if it has ended."""
        self._engine.abort(request_id)

    def stop(self) -> None:
        """Stop stepping."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, at: float) -> None:
        duration = self._engine.begin(at)
        if duration is None:
            self._timer = None
            return
        self._end = at + duration
        self._timer = self._loop.call_at(self._zero + self._end / self._scale, self._finish)

    def _finish(self) -> None:
        result = self._engine.finish(self._end)
        events = self._engine.drain_events()
        if events:
            self._publish(events)
        for emission in result.emissions:
            self._deliver(emission)
        if not self._stopped:
            self._begin(self._end)
