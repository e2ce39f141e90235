"""The endpoint set: one owner, immutable snapshots.

Everything that knows of endpoints (a file, Kubernetes, the scraper) tells the datastore; everything that asks takes a
snapshot. All methods belong to one event loop; none blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from pointsman.api.endpoint import MODEL_LABEL, Endpoint, EndpointId, EndpointMetrics
from pointsman.clock import Clock

T = TypeVar("T")

DRAIN_LABEL = "pointsman/drain"
"""``"true"``: nothing new goes there while another endpoint can take it."""
ROLE_LABEL = "llm-d.ai/role"
"""llm-d's: ``prefill``, ``decode``, ``both`` and the like."""


class EndpointSpec(msgspec.Struct, frozen=True):
    """An endpoint as a source of endpoints describes it."""

    name: str
    address: str
    """IP address."""
    port: int
    namespace: str = "default"
    labels: Mapping[str, str] = {}

    @property
    def id(self) -> EndpointId:
        return EndpointId(f"{self.namespace}/{self.name}")


class Changes(NamedTuple):
    """What a new endpoint set changed. An endpoint that moved is in ``removed`` (as it was) and in ``added``."""

    added: tuple[Endpoint, ...] = ()
    changed: tuple[Endpoint, ...] = ()
    """Other labels, same address and slot."""
    removed: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


class Health(NamedTuple):
    """What is known of an endpoint's health."""

    healthy: bool
    why: str
    since: float
    """Seconds of the picker's clock; when ``healthy`` last changed."""


class Datastore:
    """All endpoints, their metrics and health. New endpoints count as healthy until a probe says otherwise."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._endpoints: dict[EndpointId, Endpoint] = {}
        self._health: dict[EndpointId, Health] = {}
        self._slots: set[int] = set()
        self._draining: frozenset[EndpointId] = frozenset()
        self._removed: list[Callable[[Endpoint], None]] = []
        self._changed: list[Callable[[Changes], None]] = []
        self._all: tuple[Endpoint, ...] | None = ()
        self._snapshot: tuple[Endpoint, ...] | None = ()

    def snapshot(self) -> tuple[Endpoint, ...]:
        """The healthy endpoints, in the source's order. Empty when all are unhealthy: the caller answers 503.

        One that drains is left out while another of its model and role is there to take its place.
        """
        if self._snapshot is None:
            healthy = tuple(endpoint for endpoint in self.all() if endpoint.healthy)
            self._snapshot = self._without_draining(healthy) if self._draining else healthy
        return self._snapshot

    def draining(self, endpoint_id: EndpointId) -> bool:
        """Whether an endpoint was told to drain."""
        return endpoint_id in self._draining

    def all(self) -> tuple[Endpoint, ...]:
        """Every endpoint, healthy or not."""
        if self._all is None:
            self._all = tuple(self._endpoints.values())
        return self._all

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        """One endpoint as it is now."""
        return self._endpoints.get(endpoint_id)

    def health(self, endpoint_id: EndpointId) -> Health | None:
        """Health with its reason; None for an unknown endpoint."""
        return self._health.get(endpoint_id)

    def on_removed(self, callback: Callable[[Endpoint], None]) -> None:
        """Call back with each endpoint that is gone, before its slot is handed out again."""
        self._removed.append(callback)

    def on_changed(self, callback: Callable[[Changes], None]) -> None:
        """Call back after each change of the set (not of metrics or health), when it is in force."""
        self._changed.append(callback)

    def set_endpoints(self, source: Sequence[EndpointSpec]) -> Changes:
        """Put a new set in force; what stays keeps its slot, metrics and health.

        Raises:
            ValueError: if two specs have the same id; nothing is changed then.
            ExceptionGroup: if callbacks raised; the new set is in force and the other callbacks were called.
        """
        specs = {spec.id: spec for spec in source}
        if len(specs) != len(source):
            raise ValueError("two endpoints have the same namespace and name")
        before = self._endpoints
        kept = {key: old for key, old in before.items() if key in specs and _same_place(old, specs[key])}
        removed = tuple(old for key, old in before.items() if key not in kept)
        after = {key: self._apply(spec, kept.get(key)) for key, spec in specs.items()}
        added = tuple(new for key, new in after.items() if key not in kept)
        changed = tuple(after[key] for key, old in kept.items() if after[key] is not old)
        now = self._clock.now()
        self._health = {key: self._health[key] if key in kept else Health(True, "not probed yet", now) for key in after}
        self._endpoints = after
        self._draining = frozenset(key for key, new in after.items() if new.labels.get(DRAIN_LABEL) == "true")
        self._forget_snapshots()
        return self._tell(Changes(added, changed, removed))

    def update_metrics(self, endpoint_id: EndpointId, metrics: EndpointMetrics) -> None:
        """Replace an endpoint's metrics. An endpoint that is gone meanwhile is ignored."""
        if endpoint := self._endpoints.get(endpoint_id):
            self._endpoints[endpoint_id] = msgspec.structs.replace(endpoint, metrics=metrics)
            self._forget_snapshots()

    def set_health(self, endpoint_id: EndpointId, healthy: bool, why: str) -> bool:
        """Note an endpoint's health and the reason; says whether it changed. Unknown endpoints are ignored."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None:
            return False
        before = self._health[endpoint_id]
        if before.healthy == healthy:
            self._health[endpoint_id] = Health(healthy, why, before.since)
            return False
        self._health[endpoint_id] = Health(healthy, why, self._clock.now())
        self._endpoints[endpoint_id] = msgspec.structs.replace(endpoint, healthy=healthy)
        self._forget_snapshots()
        return True

    def _apply(self, spec: EndpointSpec, old: Endpoint | None) -> Endpoint:
        if old is None:
            return Endpoint(spec.id, spec.address, spec.port, self._take_slot(), dict(spec.labels))
        if old.labels == spec.labels:
            return old
        return msgspec.structs.replace(old, labels=dict(spec.labels))

    def _take_slot(self) -> int:
        slot = 0
        while slot in self._slots:
            slot += 1
        self._slots.add(slot)
        return slot

    def _tell(self, changes: Changes) -> Changes:
        errors: list[Exception] = []
        for endpoint in changes.removed:
            errors += _call(self._removed, endpoint)
            self._slots.discard(endpoint.slot)
        if changes:
            errors += _call(self._changed, changes)
        if errors:
            raise ExceptionGroup("endpoint callbacks failed", errors)
        return changes

    def _without_draining(self, healthy: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        taken = {_purpose(endpoint) for endpoint in healthy if endpoint.id not in self._draining}
        return tuple(e for e in healthy if e.id not in self._draining or _purpose(e) not in taken)

    def _forget_snapshots(self) -> None:
        self._all = self._snapshot = None


def _purpose(endpoint: Endpoint) -> tuple[str | None, str | None]:
    """What an endpoint is there for: a decode pod cannot stand in for the last prefill pod."""
    return endpoint.labels.get(MODEL_LABEL), endpoint.labels.get(ROLE_LABEL)


def _same_place(endpoint: Endpoint, spec: EndpointSpec) -> bool:
    return (endpoint.address, endpoint.port) == (spec.address, spec.port)


def _call(callbacks: Sequence[Callable[[T], None]], argument: T) -> list[Exception]:
    errors = []
    for callback in callbacks:
        try:
            callback(argument)
        except Exception as error:  # noqa: BLE001 one listener must not keep the others from hearing
            errors.append(error)
    return errors
