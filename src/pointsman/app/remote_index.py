"""The indexers that the plan in force wants asked: made, replaced and closed as plans change."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.kvcache.remote_index import IndexerClient, RemoteIndex
from pointsman.plugins.producers.remote_prefix_cache import RemotePrefixCacheProducer
from pointsman.requestcontrol.director import Director

GRACE = 30.0
"""Seconds until the connections to an indexer that is not wanted any more are closed; longer than any deadline."""

Where: TypeAlias = tuple[str, float]
"""Address of an indexer and the seconds it has."""


class RemoteIndexKeeper:
    """Gives the Director its indexers. Belongs to one event loop."""

    def __init__(self, director: Director, observer: Observer) -> None:
        self._director, self._observer = director, observer
        self._clients: dict[Where, IndexerClient] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[IndexerClient] = set()

    @property
    def clients(self) -> tuple[IndexerClient, ...]:
        """Those in use."""
        return tuple(self._clients.values())

    def use(self, plan: Plan) -> None:
        """Ask whom a plan wants asked; one that was asked before keeps its connections and its past."""
        wanted = remote_producers(plan)
        before, self._clients = self._clients, {}
        for where in wanted:
            known = before.pop(where) if where in before else IndexerClient(*where, self._observer)
            self._clients[where] = known
        pairs = [(self._clients[where], names) for where, names in wanted.items()]
        self._director.remote_index = RemoteIndex(pairs) if pairs else None
        for client in before.values():
            self._leaving.add(client)
            task = asyncio.get_running_loop().create_task(self._close_later(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._director.remote_index = None
        closing, self._clients = [*self._clients.values(), *self._leaving], {}
        self._leaving.clear()
        for client in closing:
            await client.close()

    async def _close_later(self, client: IndexerClient) -> None:
        await asyncio.sleep(GRACE)
        self._leaving.discard(client)
        await client.close()


def remote_producers(plan: Plan) -> dict[Where, list[str]]:
    """Names of the producers that want an indexer's answers; those that want the same one share its answer."""
    found: dict[Where, list[str]] = {}
    for name, plugin in plan.plugins.items():
        if isinstance(plugin, RemotePrefixCacheProducer):
            where = (plugin.params.cache_indexer_url, plugin.params.timeout_ms / 1000)
            found.setdefault(where, []).append(name)
    return found
