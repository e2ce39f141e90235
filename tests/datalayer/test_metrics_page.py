from __future__ import annotations

import math
import re
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pointsman.api.endpoint import EndpointMetrics, LoraState
from pointsman.datalayer import metrics_page
from pointsman.datalayer.engines import ENGINES, SGLANG, TRTLLM, VLLM, detect_engine
from pointsman.datalayer.metrics_page import parse_metrics, read_samples

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
PAGES = sorted(CAPTURES.glob("metrics_*.txt"))


def by_full_parser(page: str, names: frozenset[str]) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in names and 0 <= sample.value < math.inf:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def by_ours(page: str, names: frozenset[str]) -> dict[str, list[tuple[dict[str, str], float]]]:
    samples = read_samples(page, names)
    return {name: [(each.label_map(), each.value) for each in group] for name, group in samples.items()}


def grouped(found: dict[str, list[tuple[dict[str, str], float]]]) -> dict[str, list[tuple[object, float]]]:
    """Families are sorted out differently; the order of series within a name does not matter to us."""
    return {name: sorted((tuple(sorted(a.items())), b) for a, b in group) for name, group in found.items()}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_captured_pages_equal_a_full_parse(path: Path) -> None:
    page = path.read_text()
    assert by_ours(page, VLLM.names()) == by_full_parser(page, VLLM.names())
    every = frozenset(re.findall(r"^[a-z][\w:]*", page, re.MULTILINE))
    assert grouped(by_ours(page, every)) == grouped(by_full_parser(page, every))


def test_captures_are_there() -> None:
    assert len(PAGES) == 4


def test_loaded_page() -> None:
    assert parse_metrics((CAPTURES / "metrics_a_loaded_0.txt").read_text(), 7.5) == EndpointMetrics(
        waiting=12,
        running=8,
        kv_usage=0.09393346379647749,
        block_size=32,
        num_blocks=512,
        lora=LoraState(2, frozenset({"sql-lora", "summ-lora"}), frozenset({"sql-lora", "summ-lora"})),
        prefix_queries=4704.0,
        prefix_hits=1152.0,
        updated=7.5,
    )


def test_the_newest_lora_series_wins_wherever_it_stands() -> None:
    metrics = parse_metrics((CAPTURES / "metrics_a_idle_after.txt").read_text(), 0)
    assert metrics is not None
    assert metrics.lora == LoraState(capacity=2), "the series without adapters is the newest, and the first"


def test_fast_enough() -> None:
    """Measured 0.15 ms; the limit is wide because the machine may be busy."""
    page = (CAPTURES / "metrics_a_idle_after.txt").read_text()
    assert min(timeit.repeat(lambda: parse_metrics(page, 0), number=20, repeat=5)) / 20 < 0.001


def vllm(*lines: str) -> EndpointMetrics | None:
    return parse_metrics("\n".join(lines) + "\n", 0, VLLM)


def test_several_engines_behind_one_port() -> None:
    metrics = vllm(
        'vllm:num_requests_waiting{engine="0"} 3.0',
        'vllm:num_requests_waiting{engine="1"} 4.0',
        'vllm:num_requests_running{engine="0"} 1',
        'vllm:num_requests_running{engine="1"} 2',
        'vllm:kv_cache_usage_perc{engine="0"} 0.2',
        'vllm:kv_cache_usage_perc{engine="1"} 0.6',
        'vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="100"} 1',
        'vllm:cache_config_info{engine="1",block_size="16",num_gpu_blocks="50"} 1',
    )
    assert metrics is not None
    assert (metrics.waiting, metrics.running) == (7, 3)
    assert metrics.kv_usage == pytest.approx(0.4)
    assert (metrics.block_size, metrics.num_blocks) == (16, 150)


def test_old_names_serve_only_without_the_new() -> None:
    old = vllm("vllm:gpu_cache_usage_perc 0.5", "vllm:gpu_prefix_cache_queries_total 8")
    both = vllm("vllm:gpu_cache_usage_perc 0.5", "vllm:kv_cache_usage_perc 0.25")
    assert old is not None
    assert both is not None
    assert (old.kv_usage, old.prefix_queries, both.kv_usage) == (0.5, 8.0, 0.25)


def test_twins_and_longer_names_are_others() -> None:
    metrics = vllm(
        "vllm:num_requests_waiting 1",
        'vllm:num_requests_waiting_by_reason{reason="capacity"} 50',
        "vllm:prefix_cache_queries_created 1.7e9",
        "vllm:prefix_cache_queries_total_created 1.7e9",
        "my_vllm:num_requests_waiting 9",
        "# vllm:num_requests_waiting 9",
        'other{x="vllm:num_requests_waiting 9"} 1',
    )
    assert metrics == EndpointMetrics(waiting=1, updated=0)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_waiting NaN",
        "vllm:num_requests_waiting +Inf",
        "vllm:num_requests_waiting -1",
        "vllm:num_requests_waiting",
        "vllm:num_requests_waiting ",
        "vllm:num_requests_waiting x",
        "vllm:num_requests_waiting 1_0",
        "vllm:num_requests_waiting 1 2 3",
        'vllm:num_requests_waiting{engine="0" 1',
        'vllm:num_requests_waiting{engine="0} 1',
        "vllm:num_requests_waiting{engine=0} 1",
        'vllm:num_requests_waiting{engine="0"}',
        "vllm:num_requests_waiting{{}} 1",
        "vllm:num_requests_waiting} 1",
    ],
)
def test_a_garbage_line_is_left_out(line: str) -> None:
    assert vllm(line, "vllm:num_requests_running 2") == EndpointMetrics(running=2, updated=0)
    assert vllm(line) is None


def test_spaces_times_and_line_ends() -> None:
    metrics = vllm(
        '  vllm:num_requests_waiting \t{ engine = "0" , }\t 3 1700000000000\r',
        "vllm:num_requests_running\t4",
        "vllm:kv_cache_usage_perc 1.2",
    )
    assert metrics == EndpointMetrics(waiting=3, running=4, kv_usage=1.0, updated=0)


def test_quotes_commas_and_braces_in_labels() -> None:
    metrics = vllm(
        "vllm:num_requests_running 1",
        r'vllm:lora_requests_info{note="a\"},{b=\"c\\",max_lora="4",running_lora_adapters="x, y{1}"} 5',
        r'vllm:cache_config_info{odd="block_size=\"9\"",block_size="16",num_gpu_blocks="None"} 1.0',
    )
    assert metrics is not None
    assert metrics.lora == LoraState(4, frozenset({"x", "y{1}"}))
    assert (metrics.block_size, metrics.num_blocks) == (16, None)


def test_sglang() -> None:
    page = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m",priority="",tp_rank="0"} 5.0
sglang:num_running_reqs{model_name="m",priority="1",tp_rank="0"} 3.0
sglang:num_running_reqs{model_name="m",priority="2",tp_rank="0"} 2.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 7.0
sglang:num_queue_reqs{model_name="m",tp_rank="0",dp_rank="1"} 1.0
sglang:token_usage{model_name="m"} 0.28
sglang:cache_config_info{num_pages="2048",page_size="64"} 1.0
sglang:prompt_tokens_total{model_name="m"} 100.0
sglang:cached_tokens_total{model_name="m"} 40.0
"""
    assert parse_metrics(page, 1) == EndpointMetrics(8, 5, 0.28, 64, 2048, None, LoraState(), 100, 40, updated=1)
    gauges = "sglang:num_queue_reqs 0\nsglang:page_size 32\nsglang:num_pages 10\n"
    assert parse_metrics(gauges, 1) == EndpointMetrics(block_size=32, num_blocks=10, updated=1)


def test_trtllm() -> None:
    page = (
        "trtllm_num_requests_waiting 2\ntrtllm_num_requests_running 3\ntrtllm_kv_cache_utilization 0.5\n"
        "trtllm_kv_cache_tokens_per_block 64\ntrtllm_kv_cache_max_blocks 100\n"
    )
    assert parse_metrics(page, 1) == EndpointMetrics(2, 3, 0.5, 64, 100, updated=1)


def test_detection() -> None:
    assert detect_engine((CAPTURES / "metrics_a_loaded_0.txt").read_text()) is VLLM
    assert detect_engine("sglang:token_usage 1") is SGLANG
    assert detect_engine("# HELP vllm:x y\n  trtllm_x 1") is TRTLLM
    for page in ("", "# vllm:a 1\n", "llamacpp:requests_processing 1", 'a{b="vllm:"} 1', "<html>vllm:</html>"):
        assert detect_engine(page) is None
        assert parse_metrics(page, 0) is None
    assert len({engine.name for engine in ENGINES}) == len(ENGINES)


def test_a_hostile_page_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "MAX_SAMPLES", 5)
    assert vllm(*["vllm:num_requests_waiting 1"] * 50) == EndpointMetrics(waiting=5, updated=0)


def test_no_slow_regular_expressions() -> None:
    for filler in (' a="b"', "\\", '"', " ", "{", 'a="' + "\\" * 50):
        line = "vllm:num_requests_waiting{" + filler * (200_000 // len(filler))
        assert timeit.timeit(lambda line=line: vllm(line), number=1) < 0.5  # type: ignore[misc]


label_text = st.text('ab\\"\n{},= #é', max_size=6)
series = st.tuples(
    st.sampled_from([*sorted(VLLM.names()), "vllm:num_requests_waiting_by_reason", "other"]),
    st.dictionaries(st.sampled_from(["engine", "model_name", "block_size", "max_lora"]), label_text, max_size=3),
    st.floats(allow_nan=True) | st.integers(-5, 10**6).map(float),
)


@given(st.lists(series, max_size=8))
def test_random_pages_equal_a_full_parse(lines: list[tuple[str, dict[str, str], float]]) -> None:
    registry = CollectorRegistry()
    seen: dict[str, tuple[str, ...]] = {}
    gauges: dict[str, Gauge] = {}
    for name, labels, value in lines:
        keys = seen.setdefault(name, tuple(labels))
        if name not in gauges:
            gauges[name] = Gauge(name, 'help "vllm:num_requests_waiting" 1', keys, registry=registry)
        target = gauges[name].labels(*(labels.get(key, "") for key in keys)) if keys else gauges[name]
        target.set(value)
    page = generate_latest(registry).decode()
    assert by_ours(page, VLLM.names()) == by_full_parser(page, VLLM.names())


@given(st.text('vllm:num_requests_waiting{}="\\,#\n 0.5eNa', max_size=200), st.binary(max_size=50))
def test_garbage_never_raises(text: str, tail: bytes) -> None:
    parse_metrics("vllm:num_requests_waiting" + text + tail.decode("utf-8", "replace"), 0)
    parse_metrics(text, 0, VLLM)
