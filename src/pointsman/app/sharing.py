"""Sharing the index of KV caches with other replicas, put together; for the picker and for the indexer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pointsman.clock import Clock
from pointsman.framework.plan import Plan
from pointsman.kvcache.shared import SharedOptions, SharedStore
from pointsman.kvcache.shared_address import shown_address
from pointsman.kvcache.shared_changes import Tap, untapped
from pointsman.kvcache.shared_writer import Facts
from pointsman.kvcache.told import Memory
from pointsman.observability.logging import logger
from pointsman.plugins.producers.precise_prefix_cache import PrecisePrefixCacheProducer


class SharingOptions(msgspec.Struct, frozen=True):
    """With whom."""

    url: str
    """As :func:`pointsman.kvcache.shared_address.shared_address` gives it."""
    scope: str = "default"
    store: SharedOptions = SharedOptions()


class Sharing:
    """A store while there is one; without options nothing happens. Used on one event loop.

    Args:
        memory: where what others tell goes.
        facts: what is known of (pod, rank) here.
        clock: time.
    """

    def __init__(self, memory: Memory, facts: Callable[[str, int], Facts], clock: Clock) -> None:
        self._memory, self._facts, self._clock = memory, facts, clock
        self._log = logger("sharing")
        self._store: SharedStore | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def tap(self) -> Tap:
        """Gives the sinks of views from now on."""
        return self._store.tap if self._store is not None else untapped

    @property
    def counts(self) -> dict[str, int]:
        """What happened, by kind."""
        return self._store.counts if self._store is not None else {}

    @property
    def connected(self) -> bool:
        """Whether there is a store, and a connection to it."""
        return self._store is not None and self._store.connected

    @property
    def leases(self) -> int:
        """Holders that this replica writes."""
        return self._store.leases if self._store is not None else 0

    def use(self, options: SharingOptions | None) -> None:
        """Share that way from now on; needs a running event loop. What was before is closed.

        Raises:
            ConfigError: if the client's extra is not installed.
        """
        before, self._store = self._store, None
        if before is not None:
            task = asyncio.get_running_loop().create_task(before.stop())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if options is not None:
            self._log.info("the index is to be shared", server=shown_address(options.url), scope=options.scope)
            self._store = SharedStore(
                options.url, options.scope, self._memory, self._facts, self._clock, self._note, options.store
            )
            self._store.start()

    def remove(self, pod: str) -> None:
        """A pod is gone for good."""
        if self._store is not None:
            self._store.remove(pod)

    async def stop(self) -> None:
        """Close; what is stored stays for those who come after."""
        store, self._store = self._store, None
        if store is not None:
            await store.stop()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _note(self, event: str, details: Mapping[str, Any]) -> None:
        (self._log.warning if "error" in details else self._log.info)(event, **details)


def sharing_options(plan: Plan) -> SharingOptions | None:
    """How a plan wants the index to be shared; None when it does not."""
    for plugin in plan.plugins.values():
        if isinstance(plugin, PrecisePrefixCacheProducer) and plugin.shared is not None:
            return SharingOptions(plugin.shared.address, plugin.shared.scope)
    return None
