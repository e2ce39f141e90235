"""The tokenizing service of the plan in force: built off the event loop, replaced when a new plan wants another."""

from __future__ import annotations

import asyncio

from pointsman.datalayer.datastore import Datastore
from pointsman.errors import ConfigError
from pointsman.framework.plan import Plan
from pointsman.observability.logging import logger
from pointsman.plugins.producers.token_producer import TokenProducerParams
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.tokenizing.assemble import make_tokenizing, token_params

GRACE = 60.0
"""Seconds that a service which was replaced may still be asked by requests under way."""


class TokenKeeper:
    """Gives the Director its tokenizing service. Belongs to one event loop."""

    def __init__(self, director: Director, datastore: Datastore) -> None:
        self._director = director
        self._datastore = datastore
        self._asked = 0
        self._params: TokenProducerParams | None = None
        self._log = logger("tokens")
        self._tasks: set[asyncio.Task[None]] = set()

    async def use(self, plan: Plan) -> None:
        """Put in force what a plan wants.

        Raises:
            ConfigError: if a file of the tokenizer cannot be used; the service before stays.
        """
        wanted = token_params(plan)
        if wanted == self._params:
            return
        service = await asyncio.to_thread(make_tokenizing, wanted, pods=self._pod) if wanted is not None else None
        before, self._director.tokenizing, self._params = self._director.tokenizing, service, wanted
        if before is not None:
            try:
                await asyncio.sleep(GRACE)
            finally:
                await before.close()

    def replace(self, plan: Plan) -> None:
        """The same in the background, for a plan that replaces another one."""
        task = asyncio.get_running_loop().create_task(self._try(plan))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Close the service."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        before, self._director.tokenizing = self._director.tokenizing, None
        if before is not None:
            await before.close()

    def _pod(self) -> str | None:
        """Address of the next healthy pod."""
        pods = self._datastore.snapshot()
        self._asked += 1
        return f"http://{pods[self._asked % len(pods)].hostport}" if pods else None

    async def _try(self, plan: Plan) -> None:
        try:
            await self.use(plan)
        except ConfigError as error:
            self._log.error("tokenizer refused, the old one stays", error=str(error))
