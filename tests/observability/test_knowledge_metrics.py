"""The picker's knowledge on its metrics page."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.builders import make_plugin

from pointsman.kvcache.following import StreamStatus
from pointsman.kvcache.known_pods import HolderInfo
from pointsman.kvcache.kv_index import GPU, KVIndex
from pointsman.observability.knowledge_metrics import Knowledge, plugin_stats
from pointsman.observability.metrics import Metrics
from pointsman.plugins.producers.precise_prefix_cache import PrecisePrefixCacheProducer


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found[sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))] = sample.value
    return found


def stream(pod: str, lag: float) -> StreamStatus:
    counts = dict.fromkeys(("held", "events", "lost", "replays", "failed_replays", "restarts", "duplicates", "bad"), 0)
    return StreamStatus(
        pod=pod, rank=0, connected=True, confidence=1.0, lag=lag, last_lag=lag, silent_for=0.0, batches=7, gaps=2,
        skipped={}, **counts,
    )  # fmt: skip


def test_without_an_index_there_is_no_index_on_the_page() -> None:
    page = Metrics().render().decode()
    assert "index_size" not in page
    assert "kv_event" not in page


def test_size_streams_and_confidence_are_told() -> None:
    index = KVIndex()
    index.store(0, GPU, [1, 2, 3])
    metrics = Metrics()
    metrics.knowledge.latest = Knowledge(
        index=index.stats(),
        holders=[HolderInfo("default/a", 0, [], 16, gpu=3, confidence=0.75)],
        streams=[stream("default/a", 0.25), stream("default/b", math.nan)],
        tokens={"engine": 4, "engine-late": 1},
    )
    found = samples(metrics)
    assert found["index_size",] == 3
    assert found["kv_pod_blocks", "pod=default/a", "rank=0", "tier=gpu"] == 3
    assert found["kv_pod_confidence", "pod=default/a", "rank=0"] == 0.75
    assert found["kv_event_lag_seconds", "pod=default/a", "rank=0"] == 0.25
    assert ("kv_event_lag_seconds", "pod=default/b", "rank=0") not in found
    assert found["kv_event_gaps_total", "pod=default/b", "rank=0"] == 2
    assert found["pointsman_tokenized_prompts_total", "way=engine-late"] == 1


def test_a_plugin_that_cannot_count_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = make_plugin(PrecisePrefixCacheProducer), make_plugin(PrecisePrefixCacheProducer)

    def fail() -> Mapping[str, int]:
        raise KeyError("mine")

    monkeypatch.setattr(bad, "stats", fail)
    monkeypatch.setattr(good, "stats", lambda: {"exact": 5})
    metrics = Metrics()
    metrics.knowledge.latest = Knowledge(plugins=plugin_stats({"good": good, "bad": bad}, metrics))
    found = samples(metrics)
    assert found["pointsman_plugin_stat_total", "plugin=good", "stat=exact"] == 5
    assert found["pointsman_plugin_errors_total", "plugin=bad", "point=stats"] == 1


def test_what_the_latency_model_has_learnt() -> None:
    metrics = Metrics()
    metrics.knowledge.latest = Knowledge(latency={"factors": {"prefill_base": 1.5}, "drifts": {"prefill": 2}})
    found = samples(metrics)
    assert found["pointsman_latency_factor", "part=prefill_base"] == 1.5
    assert found["pointsman_latency_drifts_total", "part=prefill"] == 2
