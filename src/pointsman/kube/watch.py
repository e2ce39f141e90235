"""List and watch one resource for as long as it takes: the loop around a :class:`~pointsman.kube.reflector.Reflector`.

Whatever fails (the server is away, the watch breaks off, a version is too old, a right is missing) costs freshness and
nothing else: the last known objects stay until a list says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from random import Random
from typing import Generic, TypeVar

import msgspec

from pointsman.clock import Clock
from pointsman.kube.api import Api, ApiFailure, KubeError, Resource, UnreachableError
from pointsman.kube.reflector import Problem, Reflector, WatchEvent

T = TypeVar("T")

_OVERLOAD = frozenset((429, 500, 502, 503, 504))
_DENIED = ("ApiFailure404 ", "ApiFailure403 ")

PAGE = 500
"""Objects per answer of a list: at most a few MB for the largest pods."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Waits, in seconds."""

    first_retry: float = 0.2
    """After the first failure; doubles with each that follows."""
    last_retry: float = 30.0
    absent_retry: float = 60.0
    """Until the next look for a resource that the server does not know, or that we may not read."""
    relist: float = 600.0
    """Between two whole lists, in case anything was lost; drawn from this to half as much again."""
    settled: float = 5.0
    """A watch that lasted so long, or brought anything, makes earlier failures forgotten."""


class WatchStats(msgspec.Struct):
    """What became of a resource, for metrics and pages. Counts since the start."""

    objects: int = 0
    """Those that can be read, now."""
    lists: int = 0
    watches: int = 0
    events: int = 0
    gone: int = 0
    """Times a version was too old (410), so that a new list was needed."""
    failures: int = 0
    refused: int = 0
    """Objects that could not be read."""
    contact: float | None = None
    """When the server was last heard, in seconds of the clock; None for never."""
    problem: str = ""
    """Why there is no watch at present; empty when there is one."""
    absent: bool = False
    """The server does not know the resource."""


class ResourceWatch(Generic[T]):
    """Keeps a reflector up to date."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        decode: Callable[[bytes], T],
        changed: Callable[[], None],
        report: Callable[[Resource, str], None],
        *,
        clock: Clock,
        rng: Random,
        timing: Timing,
    ) -> None:
        """Set up; :meth:`run` does the work.

        Args:
            api: the server.
            resource: what to follow.
            decode: JSON of one object to what is kept of it.
            changed: called after each change of the objects, and after the first list.
            report: told in words what went wrong, once per kind of trouble.
            clock: for ages.
            rng: spreads retries of many pickers.
            timing: waits.
        """
        self._api, self.resource = api, resource
        self._changed, self._report = changed, report
        self._clock, self._rng, self._timing = clock, rng, timing
        self._pages = True
        self.stats = WatchStats()
        self.reflector: Reflector[T] = Reflector(decode, self._refused)
        self.looked = asyncio.Event()
        """Set once the server has said what there is, even if that was that it knows no such thing."""

    async def run(self) -> None:
        """List and watch until cancelled."""
        failures, relist_at, behind = 0, 0.0, True
        while True:
            if behind or self._clock.now() >= relist_at:
                behind = not await self._list()
                relist_at = self._clock.now() + self._timing.relist * (1 + self._rng.random() / 2)
                if behind:
                    failures += 1
                    await self._wait(failures)
                    continue
            began, events = self._clock.now(), self.stats.events
            error = await self._watch(relist_at - began)
            # 410 most of all. But a server that is overloaded must not be asked for whole lists instead.
            behind = isinstance(error, ApiFailure) and error.status not in _OVERLOAD
            settled = self.stats.events > events or self._clock.now() - began >= self._timing.settled
            failures = 0 if settled and not behind else failures + 1
            if failures:
                await self._wait(failures)

    async def _list(self) -> bool:
        items: list[bytes] = []
        token = ""
        try:
            while True:
                page = await self._page(token)
                items += map(bytes, page.items or ())
                token = page.metadata.next or ""
                if not token:
                    break
        except KubeError as error:
            self._failed(error, listing=bool(token))
            return False
        self.stats.lists += 1
        self._heard()
        self._pages = True
        self.stats.absent = False
        changed = self.reflector.replace(items, page.metadata.resource_version or "0")
        self.looked.set()
        self.stats.objects = len(self.reflector)
        if changed:
            self._tell()
        return True

    async def _page(self, token: str) -> _Page:
        params = dict(self.resource.params)
        if self._pages:
            params["limit"] = str(PAGE)
        if token:
            params["continue"] = token
        raw = await self._api.request("GET", self.resource.path, params)
        try:
            return _page(raw)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise UnreachableError(f"the answer is no list: {error}") from error

    async def _watch(self, seconds: float) -> KubeError | None:
        """Follow until the server ends it (None) or something fails."""
        params = {
            **self.resource.params,
            "resourceVersion": self.reflector.version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        self.stats.watches += 1
        try:
            async with aclosing(self._api.watch(self.resource.path, params)) as lines:
                async for line in lines:
                    self._take(line)
        except KubeError as error:
            self._failed(error, listing=False)
            return error
        return None

    def _take(self, line: bytes) -> None:
        self._heard()
        if not line:
            return
        try:
            event = _event(line)
            if event.type == "ERROR":
                problem = msgspec.json.decode(event.object, type=Problem)
                raise ApiFailure(problem.code, problem.reason, problem.message)
        except (msgspec.DecodeError, UnicodeError) as error:
            # what this line was is not known, so nothing is certain any more
            raise ApiFailure(0, "Garbled", f"a line of the watch cannot be read: {error}") from error
        self.stats.events += 1
        if self.reflector.apply(event):
            self.stats.objects = len(self.reflector)
            self._tell()

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception as error:  # noqa: BLE001 - whoever listens must not end the watch
            self._report(self.resource, f"a change could not be put in force: {type(error).__name__}: {error}")

    def _heard(self) -> None:
        self.stats.contact = self._clock.now()
        self.stats.problem = ""

    def _failed(self, error: KubeError, *, listing: bool) -> None:
        status = error.status if isinstance(error, ApiFailure) else 0
        if status == 410:
            self.stats.gone += 1
            if listing:
                self._pages = False  # the list grew too old between two pages: take it in one
            return
        self.stats.failures += 1
        known = status in {403, 404}
        if status == 404:
            self.stats.absent = True
        if known:
            self.looked.set()
        text = str(error)
        kind = f"{type(error).__name__}{status}"
        if self.stats.problem.partition(" ")[0] != kind:
            self._report(self.resource, text)
        self.stats.problem = f"{kind} {text}"

    async def _wait(self, failures: int) -> None:
        timing = self._timing
        if not self.reflector.synced and self.stats.problem.startswith(_DENIED):
            longest = timing.absent_retry
        else:
            longest = min(timing.last_retry, timing.first_retry * 2 ** min(failures - 1, 16))
        await asyncio.sleep(longest * (0.5 + self._rng.random() / 2))

    def _refused(self, key: str, why: str) -> None:
        self.stats.refused += 1
        self._report(self.resource, f"{key} is refused: {why}")


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str | None = None
    next: str | None = msgspec.field(name="continue", default=None)


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


_page = msgspec.json.Decoder(_Page).decode
_event = msgspec.json.Decoder(WatchEvent).decode
