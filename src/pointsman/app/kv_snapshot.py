"""The picker's snapshot file: written now and then and at the end, read at the start."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pointsman.clock import Clock
from pointsman.kvcache import snapshot as disk
from pointsman.kvcache.remembered import Remembered
from pointsman.kvcache.snapshot import HolderSnapshot
from pointsman.observability.logging import logger


class SnapshotKeeper:
    """Keeps a file like an index; needs a running event loop.

    Args:
        path: of the file.
        period: seconds between two writings.
        holders: what is to be written, one by one.
        clock: time.
    """

    def __init__(
        self, path: Path, period: float, holders: Callable[[], Iterator[HolderSnapshot]], clock: Clock
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._path, self._period, self._holders, self._clock = path, period, holders, clock
        self._log = logger("kv")
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, memory: Remembered) -> None:
        """Remember what the file tells; one that cannot be used is warned about, and the start is cold."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(None, disk.read, self._path)
        except disk.BadSnapshotError as error:
            self.counts["snapshot-refused"] += 1
            self._log.warning("snapshot not used", problem=str(error))
            found = None
        if found is not None:
            blocks = 0
            for stored in memory.restore(found.holders, self._clock.now()):
                blocks += stored
                await asyncio.sleep(0)
            self._log.info("snapshot read", blocks=blocks, age=round(self._clock.wall() - found.wall, 1))
        self._task = loop.create_task(self._save_often())

    async def stop(self) -> None:
        """Write a last time. Harmless if it was never started: then the file stays as it is."""
        if self._task is not None:
            self._ending.set()  # not cancelled: a file half written by a thread would meet the last one
            await asyncio.gather(self._task, return_exceptions=True)
            await self._save()

    async def _save_often(self) -> None:
        while not self._ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self._period)
                return
            await self._save()

    async def _save(self) -> None:
        holders = []
        for holder in self._holders():
            holders.append(holder)
            await asyncio.sleep(0)  # picks go on between two pods
        snapshot = disk.Snapshot(self._clock.wall(), holders)
        try:
            await asyncio.get_running_loop().run_in_executor(None, disk.write, self._path, snapshot)
        except OSError as error:
            self.counts["snapshot-failed"] += 1
            self._log.error("snapshot not written", problem=str(error))
