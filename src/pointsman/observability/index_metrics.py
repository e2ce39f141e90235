"""Metrics of an index that runs as a service of its own, under the names that the field's dashboards know."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pointsman.kvcache.following import StreamStatus
from pointsman.kvcache.known_pods import HolderInfo
from pointsman.kvcache.kv_index import KVIndexStats

_LABELS = ("pod", "rank")
_COUNTERS = {
    "batches": ("kv_event_batches", "Event batches applied."),
    "events": ("kv_events", "KV-cache events applied."),
    "gaps": ("kv_event_gaps", "Gaps in the sequence numbers of an event stream."),
    "lost": ("kv_event_batches_lost", "Event batches never had."),
    "replays": ("kv_event_replays", "Replays asked for."),
    "failed_replays": ("kv_event_replays_failed", "Replays that did not bring what was asked for."),
    "restarts": ("kv_event_engine_restarts", "Engine restarts seen in an event stream."),
    "bad": ("kv_event_bad_payloads", "Payloads that could not be read."),
}


class IndexMetrics(Collector):
    """Reads everything when asked, so nothing is counted twice.

    Args:
        stats: of the index.
        streams: how each event stream is.
        holders: what each pod holds.
        counts: further counts by name.
    """

    def __init__(
        self,
        stats: Callable[[], KVIndexStats],
        streams: Callable[[], Iterable[StreamStatus]],
        holders: Callable[[], Iterable[HolderInfo]],
        counts: Callable[[], dict[str, int]],
    ) -> None:
        self._stats, self._streams, self._holders, self._counts = stats, streams, holders, counts
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The metrics page."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: names need no check, as nobody else registers here."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now."""
        stats = self._stats()
        yield from of_index(stats)
        yield CounterMetricFamily("kv_cache_lookup", "Blocks asked for.", stats.lookups)
        yield CounterMetricFamily("kv_cache_hit", "Of them, leading blocks that a pod held.", stats.hits)
        counts = CounterMetricFamily("kv_indexer", "What came in beside the streams, by kind.", labels=("kind",))
        for kind, count in self._counts().items():
            counts.add_metric((kind,), count)
        yield counts
        yield from of_holders(self._holders())
        yield from of_streams(list(self._streams()))


def of_index(stats: KVIndexStats) -> Iterator[Metric]:
    """Size of an index."""
    yield GaugeMetricFamily("index_size", "Distinct blocks in the index.", stats.blocks)
    yield GaugeMetricFamily("index_bytes", "Memory of the index.", stats.bytes)
    yield GaugeMetricFamily("index_speculative", "Pairs of pod and block that are only expected.", stats.speculative)
    yield CounterMetricFamily("kv_index_evictions", "Blocks dropped for want of room.", stats.evictions)


def of_holders(holders: Iterable[HolderInfo]) -> Iterator[Metric]:
    """What each pod holds, and how sure that is."""
    blocks = GaugeMetricFamily("kv_pod_blocks", "Blocks that a pod holds, by tier.", labels=(*_LABELS, "tier"))
    sure = GaugeMetricFamily("kv_pod_confidence", "How far the index is right about a pod, 0 to 1.", labels=_LABELS)
    for info in holders:
        names = (info.pod, str(info.rank))
        sure.add_metric(names, info.confidence)
        for tier, count in (("gpu", info.gpu), ("cpu", info.cpu), ("disk", info.disk), ("warm", info.warm)):
            blocks.add_metric((*names, tier), count)
    yield blocks
    yield sure


def of_streams(streams: Sequence[StreamStatus]) -> Iterator[Metric]:
    """How each event stream is."""
    lag = GaugeMetricFamily("kv_event_lag_seconds", "From an engine's time stamp to arrival.", labels=_LABELS)
    for status in streams:
        if not math.isnan(status.lag):
            lag.add_metric((status.pod, str(status.rank)), status.lag)
    yield lag
    for field, (name, text) in _COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=_LABELS)
        for status in streams:
            family.add_metric((status.pod, str(status.rank)), getattr(status, field))
        yield family
