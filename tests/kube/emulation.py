"""An API server to test against: kmock's HTTP, paths, discovery and errors, with storage that has versions.

kmock 0.8's own emulator keeps objects, but no resource versions, selectors, pages or 410, which are what a watcher is
about; so they are here. Every fault that a real server can show can be asked for.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any, Self

from kmock import KubernetesError, KubernetesScaffold, Request, Server, action, method

Object = dict[str, Any]
PODS = "v1/pods"
LEASES = "coordination.k8s.io/v1/leases"
POOLS = "inference.networking.k8s.io/v1/inferencepools"


class Change:
    """One line of the log."""

    def __init__(self, version: int, kind: str, before: Object | None, after: Object | None) -> None:
        self.version, self.kind, self.before, self.after = version, kind, before, after


class Emulation:
    """One cluster. ``served`` holds the resources that exist, as ``group/version/plural``."""

    def __init__(self, *served: str) -> None:
        self.served = {PODS, LEASES, *served}
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.log: list[Change] = []
        self.compacted = 0
        self.refuse: dict[str, int] = {}
        """Resource to the status that requests for it get."""
        self.page_limit: int | None = None
        """Most objects in an answer, whatever was asked for."""
        self.gone_as_status = False
        """Say "too old" by the status of a watch instead of an event of it; real servers do both."""
        self.expire_pages = 0
        """How many further requests for the next page find that the list is too old."""
        self.watching: dict[str, int] = {}
        self._versions = itertools.count(1)
        self._version = 0
        self._news = asyncio.Event()
        self._raw: list[tuple[str, bytes]] = []
        self._epoch = 0
        self._handler = KubernetesScaffold()
        self._server: Server | None = None
        self._port: int | None = None
        fallback = self._handler.fallback
        fallback[action.LIST] << self._list
        fallback[action.WATCH] << self._watch
        fallback[action.FETCH] << self._get
        fallback[action.CREATE] << self._create
        fallback[action.DELETE] << self._delete
        fallback[method.PUT] << self._put

    # -- the server ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._handler.__aenter__()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._handler.__aexit__(None, None, None)

    async def start(self) -> None:
        """Listen; the second time on the same port."""
        self._server = Server(self._handler, port=self._port)
        await self._server.__aenter__()
        self._port = self._server.port

    async def stop(self) -> None:
        """Be gone: connections break, new ones are refused."""
        server, self._server = self._server, None
        if server is not None:
            self.cut(server)
            self._epoch += 1
            self._news.set()
            await server.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def cut(self, server: Server | None = None) -> None:
        """Break every connection, wherever it is."""
        server = server or self._server
        assert server is not None
        assert server.server.runner is not None
        assert server.server.runner.server is not None
        for connection in server.server.runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def hang_up(self) -> None:
        """End every watch in good order, as a server does from time to time."""
        self._epoch += 1
        self._tell()

    def compact(self) -> None:
        """Forget all history: what watches an older version is told 410."""
        self.compacted = self._version
        self.log.clear()

    def inject(self, resource: str, raw: bytes) -> None:
        """Write raw bytes into every watch of a resource."""
        self._raw.append((resource, raw))
        self._tell()

    def event(self, resource: str, kind: str, item: Object) -> None:
        """Write an event into every watch of a resource, whatever is stored."""
        self.inject(resource, json.dumps({"type": kind, "object": item}).encode() + b"\n")

    # -- storage -------------------------------------------------------------------------------------------------------

    def find(self, resource: str, name: str, namespace: str = "default") -> Object:
        return self.objects[resource, namespace, name]

    def _store(self, resource: str, namespace: str, name: str, item: Object) -> Object:
        key = (resource, namespace, name)
        before = self.objects.get(key)
        item = copy.deepcopy(item)
        meta = item.setdefault("metadata", {})
        old = before["metadata"] if before is not None else {}
        self._version = next(self._versions)
        meta.update(namespace=namespace, name=name, resourceVersion=str(self._version))
        meta["uid"] = old.get("uid") or f"uid-{self._version}"
        minute, second = divmod(self._version, 60)
        meta.setdefault("creationTimestamp", old.get("creationTimestamp") or f"2026-01-01T00:{minute:02}:{second:02}Z")
        self.objects[key] = item
        self.log.append(Change(self._version, resource, before, item))
        self._tell()
        return item

    def _remove(self, resource: str, namespace: str, name: str) -> Object:
        item = copy.deepcopy(self.objects.pop((resource, namespace, name)))
        self._version = next(self._versions)
        item["metadata"]["resourceVersion"] = str(self._version)
        self.log.append(Change(self._version, resource, item, None))
        self._tell()
        return item

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # -- requests ------------------------------------------------------------------------------------------------------

    def _resource(self, request: Request) -> str:
        self._handler._requests.clear()  # kmock looks through all of them for each: 10 ms by the hundredth
        found = request.resource
        assert found is not None
        parts = [part for part in (found.group, found.version, found.plural) if part]
        resource = "/".join(str(part) for part in parts)
        if resource in self.refuse:
            raise KubernetesError(status=self.refuse[resource], reason="Refused", message="as told")
        if resource not in self.served:
            raise KubernetesError(status=404, reason="NotFound", message="the server could not find the resource")
        return resource

    async def _list(self, request: Request) -> Object:
        resource = self._resource(request)
        params = request.params
        items = [
            item
            for (kind, namespace, _), item in sorted(self.objects.items())
            if kind == resource and namespace == request.namespace and _selected(params, item)
        ]
        start = int(params.get("continue") or 0)
        if start and self.expire_pages:
            self.expire_pages -= 1
            raise KubernetesError(status=410, reason="Expired", message="The provided continue parameter is too old")
        limit = int(params.get("limit") or 0)
        if limit and self.page_limit is not None:
            limit = min(limit, self.page_limit)
        page = items[start : start + limit] if limit else items
        meta = {"resourceVersion": str(self._version)}
        if start + len(page) < len(items):
            meta["continue"] = str(start + len(page))
        return {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": copy.deepcopy(page)}

    async def _watch(self, request: Request) -> AsyncIterator[Any]:
        resource = self._resource(request)
        seen = int(request.params["resourceVersion"])
        deadline = asyncio.get_running_loop().time() + float(request.params.get("timeoutSeconds", 300))
        epoch, told = self._epoch, len(self._raw)
        if seen < self.compacted and self.gone_as_status:
            raise KubernetesError(status=410, reason="Expired", message="too old resource version")
        self.watching[resource] = self.watching.get(resource, 0) + 1
        try:
            yield b""
            if seen < self.compacted:
                status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                yield {"type": "ERROR", "object": status}
                return
            while epoch == self._epoch:
                news = self._news
                for change in [c for c in self.log if c.version > seen and c.kind == resource]:
                    seen = change.version
                    event = _event(change, request)
                    if event is not None:
                        yield event
                for kind, raw in self._raw[told:]:
                    if kind == resource:
                        yield raw
                told = len(self._raw)
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                try:
                    await asyncio.wait_for(news.wait(), left)
                except TimeoutError:
                    return
        finally:
            self.watching[resource] -= 1

    async def _get(self, request: Request) -> Object:
        resource = self._resource(request)
        return copy.deepcopy(self._found(resource, request))

    async def _create(self, request: Request) -> Object:
        resource = self._resource(request)
        name = request.data["metadata"]["name"]
        key = (resource, str(request.namespace), name)
        if key in self.objects:
            raise KubernetesError(status=409, reason="AlreadyExists", message="it exists")
        return self._store(*key, request.data)

    async def _put(self, request: Request) -> Object:
        resource = self._resource(request)
        old = self._found(resource, request)
        given = request.data["metadata"].get("resourceVersion")
        if given is not None and given != old["metadata"]["resourceVersion"]:
            raise KubernetesError(status=409, reason="Conflict", message="the object has been modified")
        if request.subresource == "status":
            item = {**old, "status": request.data.get("status", {})}
        else:
            item = {**request.data, **({"status": old["status"]} if "status" in old else {})}
        return self._store(resource, str(request.namespace), str(request.name), item)

    async def _delete(self, request: Request) -> Object:
        resource = self._resource(request)
        old = self._found(resource, request)
        if old["metadata"].get("finalizers"):
            meta = {**old["metadata"], "deletionTimestamp": "2026-01-01T01:00:00Z"}
            return self._store(resource, str(request.namespace), str(request.name), {**old, "metadata": meta})
        return self._remove(resource, str(request.namespace), str(request.name))

    def _found(self, resource: str, request: Request) -> Object:
        item = self.objects.get((resource, str(request.namespace), str(request.name)))
        if item is None:
            raise KubernetesError(status=404, reason="NotFound", message="there is no such object")
        return item


def _selected(params: Any, item: Object | None) -> bool:
    if item is None:
        return False
    labels = item["metadata"].get("labels") or {}
    for part in filter(None, params.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value:
            return False
    wanted = params.get("fieldSelector", "").removeprefix("metadata.name=")
    return not wanted or item["metadata"]["name"] == wanted


def _event(change: Change, request: Request) -> Object | None:
    """What a watcher with selectors sees of a change: an object that no longer matches is deleted for it."""
    meta = (change.after or change.before or {})["metadata"]
    if meta["namespace"] != request.namespace:
        return None
    before, after = _selected(request.params, change.before), _selected(request.params, change.after)
    if not before and not after:
        return None
    kind = "DELETED" if not after else "MODIFIED" if before else "ADDED"
    item = change.after or change.before
    return {"type": kind, "object": copy.deepcopy(item)}
