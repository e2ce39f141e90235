"""Kubernetes as a source of endpoints and policies: which resources are followed, and what follows from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

import msgspec

from pointsman.clock import Clock
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.kube.api import Api, Resource
from pointsman.kube.endpoints import pool_endpoints
from pointsman.kube.objects import (
    LEGACY_GROUP,
    LLMD_GROUP,
    POOL_GROUP,
    Objective,
    Pod,
    Pool,
    Rewrite,
    decode_legacy_pool,
    decode_objective,
    decode_pod,
    decode_pool,
    decode_rewrite,
)
from pointsman.kube.policies import PoolName, make_policies
from pointsman.kube.watch import ResourceWatch, Timing, WatchStats
from pointsman.requestcontrol.policies import NO_POLICIES, ModelPolicies

T = TypeVar("T")

OBJECTIVES = ((LLMD_GROUP, "v1"), (LLMD_GROUP, "v1alpha2"), (LEGACY_GROUP, "v1alpha2"))
"""API versions of InferenceObjective, the one that counts first."""
REWRITES = ((LLMD_GROUP, "v1alpha2"), (LEGACY_GROUP, "v1alpha2"))

MAX_GAP = 0.2
"""Longest time in seconds that a change of pods waits for others to be put in force together."""

Report = Callable[[Resource, str], None]


class PoolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which pods: those of an InferencePool, or, with ``standalone``, those of a selector of one's own.

    ``name`` is the InferencePool's; without one it only says whose policies count (empty: all of the namespace).
    """

    namespace: str
    name: str = ""
    group: str = POOL_GROUP
    standalone: Pool | None = None


class KubeSource:
    """Follows pool, pods, objectives and rewrites of one namespace and hands on what they come to."""

    def __init__(
        self,
        api: Api,
        choice: PoolChoice,
        use: Callable[[Sequence[EndpointSpec]], None],
        use_policies: Callable[[ModelPolicies], None],
        report: Report,
        *,
        clock: Clock,
        rng: Random,
        timing: Timing | None = None,
    ) -> None:
        """Set up, without connecting.

        Args:
            api: the server.
            choice: what to follow.
            use: given the whole set of endpoints whenever it changes.
            use_policies: given the policies whenever they change.
            report: told in words what goes wrong with which resource.
            clock: real time; for ages.
            rng: spreads retries.
            timing: waits.
        """
        self._api, self.choice, self._report = api, choice, report
        self._use, self._use_policies = use, use_policies
        self._clock, self._rng, self._timing = clock, rng, timing or Timing()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._specs: list[EndpointSpec] | None = None
        self._policies = NO_POLICIES
        self._pods: ResourceWatch[Pod] | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._next_turn = 0.0
        self._followed: Mapping[str, str] | None = None
        self._pool_watch = self._make_pool_watch()
        self._objectives = [self._policy_watch(*v, "inferenceobjectives", decode_objective) for v in OBJECTIVES]
        self._rewrites = [self._policy_watch(*v, "inferencemodelrewrites", decode_rewrite) for v in REWRITES]

    @property
    def pool(self) -> Pool | None:
        """The pool as it is now; None while there is none."""
        if self._pool_watch is None:
            return self.choice.standalone
        return next(iter(self._pool_watch.reflector.objects.values()), None)

    @property
    def synced(self) -> bool:
        """Whether the endpoints are known: there is a pool and its pods were listed. They may be none."""
        return self._specs is not None and self.pool is not None

    def stats(self) -> dict[str, WatchStats]:
        """What became of each resource, by name."""
        return {str(watch.resource): watch.stats for watch in self._watches()}

    async def start(self, patience: float = 5.0) -> None:
        """Begin to follow, and wait up to ``patience`` seconds for the first answers.

        What is not known by then comes later: no server, no pool and no resource definitions are no errors.
        """
        for watch in self._watches():
            self._spawn(str(watch.resource), watch.run())
        self._follow_pods()
        policies: list[ResourceWatch[Any]] = [*self._objectives, *self._rewrites]
        looks = [watch.looked.wait() for watch in policies]
        waiting = [asyncio.ensure_future(one) for one in (self._first_endpoints(), *looks)]
        await asyncio.wait(waiting, timeout=patience)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._soon is not None:
            self._soon.cancel()
            self._take_late_turn()

    async def stop(self) -> None:
        """Stop following. What was handed on stays as it is."""
        tasks, self._tasks = list(self._tasks.values()), {}
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _first_endpoints(self) -> None:
        if self._pool_watch is not None:
            await self._pool_watch.looked.wait()
        if self._pods is not None:
            await self._pods.looked.wait()

    def _watches(self) -> list[ResourceWatch[Any]]:
        own = [watch for watch in (self._pool_watch, self._pods) if watch is not None]
        return [*own, *self._objectives, *self._rewrites]

    def _make_pool_watch(self) -> ResourceWatch[Pool] | None:
        choice = self.choice
        if choice.standalone is not None:
            return None
        legacy = choice.group == LEGACY_GROUP
        version = "v1alpha2" if legacy else "v1"
        resource = Resource(choice.group, version, "inferencepools", choice.namespace, name=choice.name)
        return self._watch(resource, decode_legacy_pool if legacy else decode_pool, self._pool_changed)

    def _policy_watch(self, group: str, version: str, plural: str, decode: Callable[[bytes], T]) -> ResourceWatch[T]:
        resource = Resource(group, version, plural, self.choice.namespace)
        return self._watch(resource, decode, self._policies_changed)

    def _watch(self, resource: Resource, decode: Callable[[bytes], T], changed: Callable[[], None]) -> ResourceWatch[T]:
        return ResourceWatch(
            self._api,
            resource,
            decode,
            changed,
            self._report,
            clock=self._clock,
            rng=self._rng,
            timing=self._timing,
        )

    def _pool_changed(self) -> None:
        self._follow_pods()
        self._pods_changed()
        self._policies_changed()

    def _follow_pods(self) -> None:
        """Follow the pods of the pool's selector. The old endpoints stay until those of a new one are listed."""
        pool = self.pool
        if pool is None or pool.selector == self._followed:
            return
        before, self._followed = self._pods, pool.selector
        labels = ",".join(f"{key}={value}" for key, value in sorted(pool.selector.items()))
        resource = Resource("", "v1", "pods", self.choice.namespace, labels=labels)
        self._pods = self._watch(resource, decode_pod, self._pods_changed)
        if before is not None:
            self._pods.stats = before.stats
            self._pods.stats.contact = None
        task = self._tasks.pop(str(resource), None)
        if task is not None:
            task.cancel()
        self._spawn(str(resource), self._pods.run())

    def _pods_changed(self) -> None:
        """Put what the pods come to in force: now, or soon when that was done a moment ago.

        A thousand pods cost 7 ms, and each of their events comes here: at most a tenth of the time may go that way.
        """
        if self._soon is not None:
            return
        wait = self._next_turn - self._clock.now()
        if wait > 0:
            self._soon = asyncio.get_running_loop().call_later(wait, self._take_late_turn)
        else:
            self._take_turn()

    def _take_late_turn(self) -> None:
        try:
            self._take_turn()
        except Exception as error:  # noqa: BLE001 - as in the watch, which would have called otherwise
            for watch in self._watches()[:1]:
                self._report(watch.resource, f"a change could not be put in force: {type(error).__name__}: {error}")

    def _take_turn(self) -> None:
        self._soon, began = None, self._clock.now()
        try:
            self._put_in_force()
        finally:
            now = self._clock.now()
            self._next_turn = now + min(9 * (now - began), MAX_GAP)

    def _put_in_force(self) -> None:
        pool = self.pool
        if pool is None:
            self._offer([])  # not an error on the way to the server: it said that there is no such pool
        elif self._pods is not None and self._pods.reflector.synced:
            self._offer(pool_endpoints(pool, self._pods.reflector.objects.values()))

    def _offer(self, specs: list[EndpointSpec]) -> None:
        if specs != self._specs:
            self._specs = specs
            self._use(specs)

    def _policies_changed(self) -> None:
        pool = self.pool
        name = PoolName(self.choice.name, self.choice.group, pool.labels if pool is not None else None)
        objectives: list[list[Objective]] = [list(w.reflector.objects.values()) for w in self._objectives]
        rewrites: list[list[Rewrite]] = [list(w.reflector.objects.values()) for w in self._rewrites]
        policies = make_policies(name, objectives, rewrites)
        if policies != self._policies:
            self._policies = policies
            self._use_policies(policies)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[name] = asyncio.get_running_loop().create_task(work, name=f"watch {name}")
