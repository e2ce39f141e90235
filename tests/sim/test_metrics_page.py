from __future__ import annotations

from array import array
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from pointsman.sim.engine import Engine
from pointsman.sim.metrics_page import MetricsPage, number
from pointsman.sim.profiles import find_profile
from pointsman.sim.sequence import SimRequest

CAPTURE = Path(__file__).parents[1] / "data/captures/metrics_a_loaded_0.txt"
PROFILE = find_profile("qwen3-32b-2xh100")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def busy_engine() -> Engine:
    engine = Engine(PROFILE, max_loras=1)
    for i in range(5):
        adapter = "sql" if i == 3 else None
        engine.submit(SimRequest(str(i), array("I", range(100)), 4 + 10 * i, adapter), 0.0)
    now = 0.0
    for _ in range(20):
        now += engine.begin(now) or 0.0
        engine.finish(now)
    return engine


def samples(page: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def vllm_lines(page: str, *starts: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(tuple(f"{start}vllm:" for start in starts))]


def test_families_help_and_order_are_the_captured_ones() -> None:
    page = MetricsPage("tiny", PROFILE, 1e9, 2).render(busy_engine().stats).decode()
    assert vllm_lines(page, "# HELP ", "# TYPE ") == vllm_lines(CAPTURE.read_text(), "# HELP ", "# TYPE ")


def test_series_are_the_captured_ones() -> None:
    page = MetricsPage("tiny", PROFILE, 1e9, 2).render(busy_engine().stats).decode()
    ours, theirs = (
        [
            line.rsplit(" ", 1)[0]
            for line in vllm_lines(text, "")
            if not line.startswith(("vllm:lora_requests_info", "vllm:cache_config_info"))
        ]
        for text in (page, CAPTURE.read_text())
    )
    assert ours == theirs


def test_values_are_the_engine_s() -> None:
    engine = busy_engine()
    found = samples(MetricsPage("m", PROFILE, 1e9, 1).render(engine.stats).decode())
    own = (("engine", "0"), ("model_name", "m"))
    assert found["vllm:num_requests_running", own] == engine.running == 3
    assert found["vllm:num_requests_waiting", own] == 0
    assert found["vllm:kv_cache_usage_perc", own] == engine.pool.used / engine.pool.total
    assert found["vllm:prefix_cache_queries_total", own] == 500
    # The same prompt four times without an adapter, admitted in one step: three hits of six blocks.
    assert found["vllm:prefix_cache_hits_total", own] == 3 * 96
    assert found["vllm:generation_tokens_total", own] == 4 + 14 + 3 * 20
    assert found["vllm:time_to_first_token_seconds_count", own] == 5
    assert found["vllm:time_to_first_token_seconds_bucket", (own[0], ("le", "+Inf"), own[1])] == 5
    assert found["vllm:inter_token_latency_seconds_count", own] == 3 + 13 + 3 * 19
    reason = ("finished_reason", "length")
    assert found["vllm:request_success_total", (own[0], reason, own[1])] == 2


def test_the_cache_is_described() -> None:
    found = samples(MetricsPage("m", PROFILE, 1e9).render(Engine(PROFILE).stats).decode())
    info = [dict(labels) for name, labels in found if name == "vllm:cache_config_info"]
    assert [(one["block_size"], one["num_gpu_blocks"]) for one in info] == [("16", "19312")]


def test_stale_adapter_series_stay_and_the_newest_is_highest() -> None:
    engine = busy_engine()
    page = MetricsPage("m", PROFILE, 1e9, 1)
    now = engine.stats.adapters_seen["sql", ""]
    while (duration := engine.begin(now)) is not None:
        now += duration
        engine.finish(now)
    series = {
        dict(labels)["running_lora_adapters"]: value
        for (name, labels), value in samples(page.render(engine.stats).decode()).items()
        if name == "vllm:lora_requests_info"
    }
    assert series.keys() == {"", "sql"}
    assert max(series, key=series.__getitem__) == ""


def test_a_page_is_rendered_anew_when_something_happened() -> None:
    engine, page = Engine(PROFILE), MetricsPage("m", PROFILE, 1e9)
    before = page.render(engine.stats)
    engine.stats.e2e_latency.observe(3.0)
    after = page.render(engine.stats)
    assert b'vllm:e2e_request_latency_seconds_sum{engine="0",model_name="m"} 0.0' in before
    assert b'vllm:e2e_request_latency_seconds_sum{engine="0",model_name="m"} 3.0' in after


@pytest.mark.parametrize("value", [0, 1, 0.5, 12, 999_999, 1e6, 1_000_000, 1795344571.25, 1.5e12, 12345678.0])
def test_numbers_look_like_prometheus_client_s(value: float) -> None:
    assert number(value) == floatToGoString(value)  # type: ignore[no-untyped-call]
