"""What the picker knows, as metrics: its index of KV caches, event streams, where tokens came from, plugins' counts.

Gathered on the event loop, which owns all of it, and turned into text elsewhere, because that takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.framework.observer import Observer
from pointsman.framework.plugin import Plugin
from pointsman.kvcache.following import StreamStatus
from pointsman.kvcache.known_pods import HolderInfo
from pointsman.kvcache.kv_index import KVIndexStats
from pointsman.observability.index_metrics import of_holders, of_index, of_streams


class Knowledge(msgspec.Struct, frozen=True):
    """As of one moment.

    Attributes:
        index: of the index; None when the configuration has none.
        holders: what each pod holds.
        streams: how each event stream is.
        tokens: prompts by the way their tokens were found, and ``WAY-late``, ``WAY-skipped``…
        plugins: counts that plugins keep, by plugin.
        latency: what the latency model has learnt (its ``describe()``); empty when it does not learn.
    """

    index: KVIndexStats | None = None
    holders: Sequence[HolderInfo] = ()
    streams: Sequence[StreamStatus] = ()
    tokens: Mapping[str, int] = {}
    plugins: Mapping[str, Mapping[str, int]] = {}
    latency: Mapping[str, Any] = {}


def plugin_stats(plugins: Mapping[str, Plugin[Any]], observer: Observer) -> dict[str, Mapping[str, int]]:
    """Counts by plugin; one that fails to tell is left out and counted as failing."""
    found: dict[str, Mapping[str, int]] = {}
    for name, plugin in plugins.items():
        try:
            stats = {str(stat): int(count) for stat, count in plugin.stats().items()}
        except Exception as error:  # noqa: BLE001 - a user's plugin must not take the metrics page away
            observer.plugin_failed(name, "stats", error)
        else:
            found |= {name: stats} if stats else {}
    return found


class KnowledgeMetrics(Collector):
    """Tells what it was given last."""

    def __init__(self) -> None:
        self.latest = Knowledge()

    def describe(self) -> list[Metric]:
        """Nothing, as names depend on the configuration; none of them is used elsewhere."""
        return []

    def collect(self) -> Iterator[Metric]:
        """As of the latest gathering."""
        known = self.latest
        if known.index is not None:
            yield from of_index(known.index)
            yield from of_holders(known.holders)
            yield from of_streams(known.streams)
        tokens = CounterMetricFamily(
            "pointsman_tokenized_prompts", "Prompts by how their tokens were found, or why not so.", labels=("way",)
        )
        for way, count in known.tokens.items():
            tokens.add_metric((way,), count)
        yield tokens
        stats = CounterMetricFamily("pointsman_plugin_stat", "What plugins count.", labels=("plugin", "stat"))
        for plugin, counts in known.plugins.items():
            for stat, count in counts.items():
                stats.add_metric((plugin, stat), count)
        yield stats
        yield from _of_latency(known.latency)


def _of_latency(learnt: Mapping[str, Any]) -> Iterator[Metric]:
    factors = GaugeMetricFamily(
        "pointsman_latency_factor", "What the latency model makes of its profile, as factors.", labels=("part",)
    )
    drifts = CounterMetricFamily(
        "pointsman_latency_drifts", "Times the engines were seen to have changed their speed.", labels=("part",)
    )
    for part, factor in learnt.get("factors", {}).items():
        factors.add_metric((part,), factor)
    for part, count in learnt.get("drifts", {}).items():
        drifts.add_metric((part,), count)
    yield factors
    yield drifts
