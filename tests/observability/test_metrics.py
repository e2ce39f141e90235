"""Metrics: every report has its sample, under the names that dashboards know."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tests.builders import make_endpoint, make_outcome
from tests.requestcontrol.rig import Rig

from pointsman import __version__
from pointsman.api.result import Usage
from pointsman.framework.observer import Observer
from pointsman.observability.metrics import Metrics

NAMES = {
    "epp_scheduling_duration_seconds": "histogram",
    "pointsman_requests_total": "counter",
    "pointsman_refusals_total": "counter",
    "pointsman_fallbacks_total": "counter",
    "pointsman_capacity_short_total": "counter",
    "pointsman_degraded_total": "counter",
    "pointsman_shadow_decisions_total": "counter",
    "pointsman_shadow_differences_total": "counter",
    "pointsman_shadow_predicted_gain_total": "counter",
    "pointsman_records_total": "counter",
    "pointsman_plugin_errors_total": "counter",
    "pointsman_plugin_duration_seconds": "histogram",
    "pointsman_plugin_stat_total": "counter",
    "pointsman_latency_factor": "gauge",
    "pointsman_latency_drifts_total": "counter",
    "pointsman_tokenized_prompts_total": "counter",
    "pointsman_request_outcomes_total": "counter",
    "pointsman_ttft_seconds": "histogram",
    "pointsman_prefix_parity_tokens_total": "counter",
    "pointsman_request_duration_seconds": "histogram",
    "kv_cache_lookup_total": "counter",
    "kv_cache_hit_total": "counter",
    "pointsman_scrapes_total": "counter",
    "pointsman_scrape_outcomes_total": "counter",
    "pointsman_scrape_duration_seconds": "histogram",
    "pointsman_scrape_bytes_total": "counter",
    "pointsman_prometheus_rounds_total": "counter",
    "pointsman_prometheus_endpoints": "gauge",
    "pointsman_discovery_reads_total": "counter",
    "pointsman_endpoints": "gauge",
    "pointsman_requests_in_flight": "gauge",
    "pointsman_config_loads_total": "counter",
    "pointsman_info": "gauge",
}


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_the_page_has_exactly_the_metrics_that_are_documented() -> None:
    page = Metrics().render().decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    assert {name: kind for name, kind in types.items() if not name.endswith("_created")} == NAMES
    assert set(re.findall(r"^# HELP (\S+) .+\.$", page, re.MULTILINE)) >= set(NAMES) - {"pointsman_info"}


def test_the_page_can_be_read_by_prometheus() -> None:
    rig = Rig()
    rig.ask().end("complete")
    rig.metrics.refused('odd "reason"\n\\')
    families = {family.name: family for family in text_string_to_metric_families(rig.metrics.render().decode())}
    reasons = {s.labels["reason"] for s in families["pointsman_refusals"].samples if s.name.endswith("_total")}
    assert reasons == {'odd "reason"\n\\'}
    assert families["pointsman_info"].samples[0].labels == {"version": __version__}


REPORTS: list[tuple[Callable[[Observer], None], str, dict[str, str], float]] = [
    (
        lambda o: o.plugin_failed("p", "score", ValueError()),
        "pointsman_plugin_errors_total",
        {"plugin": "p", "point": "score"},
        1,
    ),
    (
        lambda o: o.plugin_timed("p", "score", 3e-6),
        "pointsman_plugin_duration_seconds_count",
        {"plugin": "p", "point": "score"},
        1,
    ),
    (
        lambda o: o.plugin_timed("p", "score", 3e-6),
        "pointsman_plugin_duration_seconds_bucket",
        {"plugin": "p", "point": "score", "le": "5e-06"},
        1,
    ),
    (lambda o: o.refused("saturated"), "pointsman_refusals_total", {"reason": "saturated"}, 1),
    (lambda o: o.fell_back("picker-error"), "pointsman_fallbacks_total", {"reason": "picker-error"}, 1),
    (lambda o: o.fell_back("picker-error"), "pointsman_capacity_short_total", {}, 0),
    (lambda o: o.fell_back("filters-drained"), "pointsman_capacity_short_total", {}, 1),
    (lambda o: o.degraded("budget"), "pointsman_degraded_total", {"kind": "budget"}, 1),
    (lambda o: o.scraped("default/pod-0", ok=True), "pointsman_scrapes_total", {"result": "ok"}, 1),
    (lambda o: o.scraped("default/pod-0", ok=False), "pointsman_scrapes_total", {"result": "failed"}, 1),
    (lambda o: o.gauges_asked("late"), "pointsman_prometheus_rounds_total", {"result": "late"}, 1),
    (lambda o: o.gauges_fed(7, 2), "pointsman_prometheus_endpoints", {"state": "prometheus"}, 7),
    (lambda o: o.gauges_fed(7, 2), "pointsman_prometheus_endpoints", {"state": "direct"}, 2),
    (
        lambda o: o.discovered("dns", "failed"),
        "pointsman_discovery_reads_total",
        {"source": "dns", "result": "failed"},
        1,
    ),
    (lambda o: o.endpoints(8, 5), "pointsman_endpoints", {"state": "known"}, 8),
    (lambda o: o.endpoints(8, 5), "pointsman_endpoints", {"state": "healthy"}, 5),
    (lambda o: o.config_loaded(ok=True), "pointsman_config_loads_total", {"result": "ok"}, 1),
    (lambda o: o.config_loaded(ok=False), "pointsman_config_loads_total", {"result": "refused"}, 1),
]


@pytest.mark.parametrize(("report", "name", "labels", "value"), REPORTS)
def test_a_report_becomes_a_sample(
    report: Callable[[Observer], None], name: str, labels: dict[str, str], value: float
) -> None:
    metrics = Metrics()
    report(metrics)
    assert sample(metrics, name, **labels) == value
    report(metrics)
    assert sample(metrics, name, **labels) == (value if name.endswith("_endpoints") else 2 * value)


@pytest.mark.parametrize("method", [name for name in vars(Observer) if not name.startswith("_")])
def test_every_report_is_counted(method: str) -> None:
    assert method in vars(Metrics)


def test_a_decision_and_its_end() -> None:
    rig = Rig("llm-d")
    prompt = "again and again " * 100
    first = rig.ask(prompt, headers={"x-request-id": "one"})
    assert sample(rig.metrics, "pointsman_requests_in_flight") == 1
    assert sample(rig.metrics, "pointsman_requests_total", endpoint=first.decision.record.chosen) == 1
    assert sample(rig.metrics, "epp_scheduling_duration_seconds_count") == 1
    tokens = first.decision.request.prompt_tokens
    assert (sample(rig.metrics, "kv_cache_lookup_total"), sample(rig.metrics, "kv_cache_hit_total")) == (tokens, 0)
    first.end("complete")
    second = rig.ask(prompt)
    hit = second.decision.record.predicted_cached_tokens
    assert hit
    assert sample(rig.metrics, "kv_cache_lookup_total") == 2 * tokens
    assert sample(rig.metrics, "kv_cache_hit_total") == hit
    assert rig.metrics.records.get("one") is first.decision.record
    assert sample(rig.metrics, "pointsman_requests_in_flight") == 1


def test_nothing_is_looked_up_where_nobody_keeps_an_index() -> None:
    rig = Rig("least-request")
    assert rig.ask().decision.record.predicted_cached_tokens is None
    assert sample(rig.metrics, "kv_cache_lookup_total") == 0


@pytest.mark.parametrize(
    ("fields", "status", "ttft"),
    [({"status": 200, "ttft_ms": 150.0}, "200", 1), ({"status": 503}, "503", 0), ({"status": None}, "0", 0)],
)
def test_an_outcome(fields: dict[str, Any], status: str, ttft: int) -> None:
    rig = Rig()
    record = rig.ask().decision.record
    outcome = make_outcome(make_endpoint(0), total_ms=1500.0, usage=Usage(1, 2, 3), **fields)
    rig.metrics.ended(outcome, record)
    assert sample(rig.metrics, "pointsman_request_outcomes_total", cause="complete", status=status) == 1
    assert sample(rig.metrics, "pointsman_request_duration_seconds_sum") == 1.5
    assert sample(rig.metrics, "pointsman_ttft_seconds_count") == ttft
    assert sample(rig.metrics, "pointsman_ttft_seconds_sum") == pytest.approx(0.15 * ttft)


def test_predicted_and_reported_cached_tokens_are_put_side_by_side() -> None:
    rig = Rig()
    record = rig.ask().decision.record
    record.predicted_cached_tokens = 64
    chosen = next(endpoint for endpoint in rig.endpoints if endpoint.id == record.chosen)
    other = next(endpoint for endpoint in rig.endpoints if endpoint.id != record.chosen)
    rig.metrics.ended(make_outcome(chosen, total_ms=1.0, usage=Usage(100, 2, 48)), record)
    rig.metrics.ended(make_outcome(chosen, total_ms=1.0), record)  # not looked at
    rig.metrics.ended(make_outcome(other, total_ms=1.0, usage=Usage(100, 2, 0)), record)  # never predicted
    name = "pointsman_prefix_parity_tokens_total"
    assert [sample(rig.metrics, name, said_by=who) for who in ("pick", "engine")] == [64, 48]


def test_a_plugin_that_keeps_failing_is_counted_on_and_logged_for_a_while() -> None:
    structlog.reset_defaults()  # whatever level another test left
    with capture_logs() as logs:
        metrics = Metrics()
        for _ in range(100):
            metrics.plugin_failed("noisy", "score", ValueError("why"))
        metrics.plugin_failed("other", "pick", KeyError("b"))
    assert [line["plugin"] for line in logs] == ["noisy"] * 20 + ["other"]
    assert (logs[0]["log_level"], logs[0]["point"], logs[0]["error"]) == ("warning", "score", "ValueError: why")
    assert sample(metrics, "pointsman_plugin_errors_total", plugin="noisy", point="score") == 100


def test_the_series_of_an_endpoint_goes_with_it() -> None:
    rig = Rig()
    chosen = rig.ask().decision.record.chosen
    assert sample(rig.metrics, "pointsman_requests_total", endpoint=chosen) == 1
    rig.metrics.endpoint_removed(chosen)
    rig.metrics.endpoint_removed("never/seen")
    assert f'endpoint="{chosen}"' not in rig.metrics.render().decode()
