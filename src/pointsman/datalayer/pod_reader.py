"""One pod's numbers: asks for them, and says what the answer means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from pointsman.api.endpoint import Endpoint, EndpointMetrics
from pointsman.clock import Clock
from pointsman.datalayer import sglang_loads
from pointsman.datalayer.engine_configs import engine_of
from pointsman.datalayer.engines import ENGINES, Engines
from pointsman.datalayer.http_reply import NotHttpError, Reply, TooLargeError
from pointsman.datalayer.latency_window import EVERY, LatencyWindow
from pointsman.datalayer.metrics_page import parse_page
from pointsman.datalayer.probing import Models, Outcome, parse_models
from pointsman.datalayer.raw_http import PodConnection

MAX_PAGE_BYTES = 4 * 1024 * 1024
LOADS_RETRY = 60.0
"""Seconds until SGLang's load is asked for again after it was not to be had."""
_REDIRECTS = range(300, 400)

Timer = Callable[[], float]
"""Real seconds."""


class Read(NamedTuple):
    """How one reading went."""

    outcome: Outcome
    kind: str
    """The same in a word, for counting; finer than the outcome."""
    why: str
    metrics: EndpointMetrics | None = None
    """What was read; without models, which are asked for elsewhere."""
    size: int = 0
    """Bytes of the body."""
    cost: float = 0.0
    """Seconds of CPU spent on the answer, as far as they can be told apart."""


class PodReader:
    """Reads one pod, over a connection of its own.

    Args:
        endpoint: which pod.
        clock: stamps readings with the moment of the question: what is read is no older than that.
        timeout: real seconds that one question may take, connecting included.
        on_lost: called when the pod closes the idle connection, as it does when it ends.
        engines: whose pages are understood.
        timer: real seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        timeout: float,
        on_lost: Callable[[], None],
        engines: Engines = ENGINES,
        timer: Timer = time.perf_counter,
    ) -> None:
        self._clock, self._timeout, self._timer, self._engines = clock, timeout, timer, engines
        self._place = endpoint.address, endpoint.port
        self.engine = engine_of(endpoint.labels, engines).engine
        """Whose page it is by the pod's labels; None: the page tells."""
        self._connection = PodConnection(*self._place, MAX_PAGE_BYTES, on_lost, timer)
        self._window = LatencyWindow()
        self._last: EndpointMetrics | None = None
        self._page_due = self._histograms_due = self._loads_from = 0.0

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    async def read(self) -> Read:
        """Ask for the pod's load; whatever happens is an answer."""
        busy = self._connection.busy
        try:
            async with asyncio.timeout(self._timeout):
                read = await self._ask()
        except TimeoutError:
            read = Read(Outcome.TIMEOUT, "timeout", f"/metrics did not answer within {self._timeout} s")
        except NotHttpError as error:
            read = Read(Outcome.FAILING, "not-http", f"/metrics cannot be read: {error}")
        except TooLargeError as error:
            read = Read(Outcome.UNUSABLE, "too-large", f"/metrics is {error}")
        except OSError as error:
            read = Read(Outcome.UNREACHABLE, "unreachable", f"no connection: {str(error) or type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - whatever a server sends, its endpoint stays under watch
            read = Read(Outcome.FAILING, "error", f"/metrics cannot be read: {error!r}")
        return read._replace(cost=read.cost + self._connection.busy - busy)

    async def models(self) -> Models | None:
        """What the pod serves; None when it does not say. Health is judged by the readings alone."""
        connection = PodConnection(*self._place, MAX_PAGE_BYTES, timer=self._timer)
        try:
            async with asyncio.timeout(self._timeout):
                reply = await connection.get("/v1/models")
        except (TimeoutError, OSError, NotHttpError, TooLargeError):
            return None
        finally:
            connection.close()
        return parse_models(reply.body) if reply.status == 200 else None

    async def _ask(self) -> Read:
        now = self._timer()
        last = self._last
        if last is not None and last.engine == "sglang" and self._loads_from <= now < self._page_due:
            asked = self._clock.now()
            found = self._loads(last, await self._connection.get(sglang_loads.PATH), asked)
            if found is not None:
                return found
            self._loads_from = now + LOADS_RETRY
        asked = self._clock.now()
        return self._page(await self._connection.get("/metrics"), asked, now)

    def _page(self, reply: Reply, asked: float, now: float) -> Read:
        status, size = reply.status, len(reply.body)
        if status != 200:
            kind = "redirect" if status in _REDIRECTS else f"status-{status // 100}xx"
            outcome = Outcome.FAILING if status >= 500 else Outcome.UNUSABLE
            return Read(outcome, kind, f"/metrics answered {status}", size=size)
        start = self._timer()
        histograms = now >= self._histograms_due
        reading = parse_page(
            reply.body.decode("utf-8", "replace"), self.engine, histograms=histograms, engines=self._engines
        )
        if reading is None:
            return Read(
                Outcome.UNUSABLE,
                "no-metrics",
                "/metrics holds no metrics of a known engine",
                None,
                size,
                self._since(start),
            )
        if histograms:
            self._window.add(reading, now)
            self._histograms_due = now + EVERY
        self._page_due = now + EVERY
        metrics = replace(reading.metrics(asked), ttft=self._window.ttft, itl=self._window.itl)
        self._last = metrics
        return Read(Outcome.READ, "read", "/metrics was read", metrics, size, self._since(start))

    def _loads(self, last: EndpointMetrics, reply: Reply, asked: float) -> Read | None:
        loads = sglang_loads.parse_loads(reply.body) if reply.status == 200 else None
        if loads is None:
            return None
        metrics = replace(
            last,
            waiting=loads.waiting,
            running=loads.running,
            kv_usage=loads.kv_usage,
            max_num_seqs=loads.max_num_seqs or last.max_num_seqs,
            ranks=loads.ranks,
            source="loads",
            updated=asked,
        )
        self._last = metrics
        return Read(Outcome.READ, "read", f"{sglang_loads.PATH} was read", metrics, len(reply.body))

    def _since(self, start: float) -> float:
        return self._timer() - start
