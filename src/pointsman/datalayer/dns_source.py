"""Endpoints behind a DNS name, asked for again as its records run out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pointsman.datalayer.dns_names import Answer, DnsFollower, DnsTarget, Failed, Step
from pointsman.datalayer.sources import Refuse, Use
from pointsman.errors import ConfigError
from pointsman.framework.observer import Observer

Lookup = Callable[[DnsTarget], Awaitable[Answer]]
Sleep = Callable[[float], Awaitable[None]]


class DnsSource:
    """Follows one name. Real time: TTLs are in seconds of the world, however fast simulated engines run."""

    def __init__(
        self,
        target: DnsTarget,
        use: Use,
        refuse: Refuse,
        *,
        observer: Observer | None = None,
        lookup: Lookup | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Set up, without asking.

        Args:
            target: the name.
            use: takes each new set.
            refuse: told once for each outage, and when the name has no address.
            observer: told of each answer.
            lookup: asks; by default the machine's DNS servers.
            sleep: waits; replaced in tests.
        """
        self._target, self._use, self._refuse = target, use, refuse
        self._observer = observer or Observer()
        self._lookup = lookup
        self._sleep = sleep
        self._follower = DnsFollower(target)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask, hand on, follow.

        Raises:
            ConfigError: if no server can be asked. A name without addresses is no error but a fleet scaled to zero.
        """
        if self._lookup is None:
            from pointsman.datalayer.dns_lookup import DnsLookup  # noqa: PLC0415 - 85 ms, for those who have such names

            self._lookup = DnsLookup()
        answer = await self._ask(self._lookup)
        if isinstance(answer, Failed):
            raise ConfigError(f"{self._target} cannot be resolved: {answer.why}", source="--endpoint")
        step = self._take(answer)
        self._task = asyncio.create_task(self._follow(self._lookup, step.wait), name=f"dns {self._target.name}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, lookup: Lookup, wait: float) -> None:
        while True:
            await self._sleep(wait)
            wait = self._take(await self._ask(lookup)).wait

    async def _ask(self, lookup: Lookup) -> Answer:
        try:
            answer = await lookup(self._target)
        except Exception as error:  # noqa: BLE001 whatever a DNS server sends, its name stays under watch
            answer = Failed(repr(error))
        result = "failed" if isinstance(answer, Failed) else "ok" if answer.places else "empty"
        self._observer.discovered("dns", result)
        return answer

    def _take(self, answer: Answer) -> Step:
        step = self._follower.note(answer)
        if step.problem is not None:
            self._refuse(ConfigError(step.problem, source="--endpoint"))
        if step.specs is not None:
            self._use(step.specs)
        return step
