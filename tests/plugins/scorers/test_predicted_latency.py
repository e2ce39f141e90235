from __future__ import annotations

import msgspec
import pytest
from tests.builders import make_endpoints, make_outcome, make_plugin, make_request, make_state

from pointsman.api.endpoint import Endpoint
from pointsman.plugins.scorers.predicted_latency import PredictedLatency

A, B, C = make_endpoints(3)
REQUEST = make_request(prompt_tokens=1000)


def feed(plugin: PredictedLatency, endpoint: Endpoint, *ttft: float, tokens: int = 1000) -> None:
    for value in ttft:
        plugin.ended(make_outcome(endpoint, make_request(prompt_tokens=tokens), ttft_ms=value))


def scores(plugin: PredictedLatency, tokens: int = 1000) -> list[float]:
    return list(plugin.score(make_request(prompt_tokens=tokens), [A, B, C], make_state()))


def test_without_history_all_are_tried() -> None:
    assert scores(make_plugin(PredictedLatency)) == [1.0, 1.0, 1.0]


def test_lower_median_is_better() -> None:
    plugin = make_plugin(PredictedLatency)
    feed(plugin, A, 100, 200, 5000)
    feed(plugin, B, 400, 400)
    assert scores(plugin) == [1.0, 0.5, 1.0]


@pytest.mark.parametrize(("percentile", "score"), [(0.0, 1.0), (0.5, 1.0), (0.9, 0.1), (1.0, 0.1)])
def test_percentile_is_nearest_rank(percentile: float, score: float) -> None:
    plugin = make_plugin(PredictedLatency, percentile=percentile)
    feed(plugin, A, 100, 100, 1000)
    feed(plugin, B, 100)
    assert scores(plugin)[0] == pytest.approx(score)


def test_buckets_are_powers_of_two() -> None:
    plugin = make_plugin(PredictedLatency)
    feed(plugin, A, 100)
    feed(plugin, B, 200)
    assert scores(plugin, 512) == [1.0, 0.5, 1.0]
    assert scores(plugin, 1023) == [1.0, 0.5, 1.0]
    assert scores(plugin, 511) == [1.0, 1.0, 1.0]
    assert scores(plugin, 0) == [1.0, 1.0, 1.0]


def test_window_slides() -> None:
    plugin = make_plugin(PredictedLatency)
    feed(plugin, A, *[1000] * 128)
    feed(plugin, B, 100)
    assert scores(plugin)[0] == pytest.approx(0.1)
    feed(plugin, A, *[100] * 128)
    assert scores(plugin)[0] == 1.0


def test_tpot() -> None:
    plugin = make_plugin(PredictedLatency, targetMetric="tpot")
    plugin.ended(make_outcome(A, REQUEST, ttft_ms=100, total_ms=1100, output_tokens=101))  # 10 ms
    plugin.ended(make_outcome(B, REQUEST, ttft_ms=100, total_ms=4100, output_tokens=101))  # 40 ms
    plugin.ended(make_outcome(C, REQUEST, ttft_ms=100, total_ms=4100))
    assert scores(plugin) == [1.0, 0.25, 1.0]


def test_failures_and_unseen_first_tokens_do_not_count() -> None:
    plugin = make_plugin(PredictedLatency)
    feed(plugin, A, 100)
    plugin.ended(make_outcome(B, REQUEST, ttft_ms=1, status=500))
    plugin.ended(make_outcome(B, REQUEST, ttft_ms=1, cause="upstream-reset"))
    plugin.ended(make_outcome(B, REQUEST, ttft_ms=None))
    assert scores(plugin) == [1.0, 1.0, 1.0]


def test_forgets_a_removed_endpoint() -> None:
    plugin = make_plugin(PredictedLatency)
    feed(plugin, A, 100)
    feed(plugin, B, 200)
    plugin.endpoint_removed(B)
    plugin.endpoint_removed(C)
    assert scores(plugin) == [1.0, 1.0, 1.0]


def test_refuses_another_metric() -> None:
    with pytest.raises(msgspec.ValidationError, match="targetMetric"):
        make_plugin(PredictedLatency, targetMetric="e2e")
