"""What became of the resources followed in Kubernetes, as metrics. Gathered on the event loop, told elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ResourceState(msgspec.Struct, frozen=True):
    """One followed resource. Counts since the start; ``age`` in seconds since the server was heard, None for never."""

    resource: str
    objects: int
    watched: bool
    age: float | None
    counts: dict[str, int]
    """By what happened: lists, watches, events, gone, failures, refused."""


class KubeMetrics(Collector):
    """Tells what it was given last."""

    def __init__(self) -> None:
        self.latest: Sequence[ResourceState] = ()
        self.leading: bool | None = None
        """None without an election."""

    def describe(self) -> list[Metric]:
        """Nothing, so that registering it asks nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """As of the latest gathering."""
        label = ("resource",)
        objects = GaugeMetricFamily("pointsman_kube_objects", "Readable objects of a followed resource.", labels=label)
        watched = GaugeMetricFamily("pointsman_kube_watched", "1 while it is followed without trouble.", labels=label)
        age = GaugeMetricFamily(
            "pointsman_kube_silence_seconds", "Since the API server was last heard about it.", labels=label
        )
        events = CounterMetricFamily(
            "pointsman_kube",
            "Lists, watches, events, expired versions, failures, refused objects.",
            labels=(*label, "what"),
        )
        for state in self.latest:
            objects.add_metric((state.resource,), state.objects)
            watched.add_metric((state.resource,), float(state.watched))
            if state.age is not None:
                age.add_metric((state.resource,), state.age)
            for what, count in state.counts.items():
                events.add_metric((state.resource, what), count)
        yield from (objects, watched, age, events)
        if self.leading is not None:
            yield GaugeMetricFamily("pointsman_leader", "1 while this picker leads.", value=float(self.leading))
