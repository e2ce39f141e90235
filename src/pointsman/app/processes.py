"""Child processes: kept alive, ended in order."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pointsman.errors import StartupError
from pointsman.observability.logging import logger

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
STEADY_S = 10.0
"""A child that lived so long is restarted at once."""


def stop_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process the hard way."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        stopped.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopped


class PointsmanChild:
    """A ``pointsman`` command run as a child, restarted with growing pauses when it ends by itself."""

    def __init__(self, name: str, arguments: Sequence[str], *, log: Path | None = None) -> None:
        self.name = name
        self._arguments = [sys.executable, "-m", "pointsman", *arguments]
        self._log_file = log
        self._log = logger("up")
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id, None while it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self, ready: Path | None = None, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Run it; with ``ready``, wait until that file exists.

        Raises:
            StartupError: if it ends first, or takes too long.
        """
        await self._spawn()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while ready is not None and not ready.exists():  # noqa: ASYNC240 - one stat of a local file
            if self.pid is None:
                raise StartupError(f"{self.name} ended at start; its message is above")
            if loop.time() > deadline:
                await self.stop(0)
                raise StartupError(f"{self.name} was not ready after {timeout:g} s")
            await asyncio.sleep(0.02)
        self._task = asyncio.create_task(self._keep(), name=f"keep-{self.name}")

    async def stop(self, drain: float) -> None:
        """SIGTERM, ``drain`` seconds to finish, then SIGKILL."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), drain + 2.0)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        log = self._log_file.open("ab") if self._log_file else None
        try:
            # A group of its own: Ctrl-C is for the parent, which ends its children in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        finally:
            if log is not None:
                log.close()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_S
        while True:
            began = loop.time()
            process = self._process
            code = await process.wait() if process else 0
            backoff = FIRST_BACKOFF_S if loop.time() - began > STEADY_S else min(backoff * 2, LONGEST_BACKOFF_S)
            self._log.warning(f"{self.name} ended, starting it again", code=code, pause_s=backoff)
            await asyncio.sleep(backoff)
            self.restarts += 1
            await self._spawn()
