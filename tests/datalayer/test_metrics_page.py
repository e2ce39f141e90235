from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as Written
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pointsman.api.endpoint import EndpointMetrics, LoraState
from pointsman.datalayer import metrics_page
from pointsman.datalayer.engines import TRITON, VLLM
from pointsman.datalayer.metrics_page import parse_metrics, parse_page
from pointsman.datalayer.reading import Histogram, RankReading, Reading

DATA = Path(__file__).parents[1] / "data"
LOADED = (DATA / "captures/metrics_a_loaded_0.txt").read_text()
BOTH = frozenset({"sql-lora", "summ-lora"})


def page_of(name: str) -> str:
    return (DATA / "metrics" / f"{name}.txt").read_text()


def read(page: str) -> Reading:
    reading = parse_page(page)
    assert reading is not None
    return reading


def vllm(*lines: str) -> Reading | None:
    return parse_page("\n".join(lines) + "\n", VLLM)


def ranks(*lines: str) -> tuple[RankReading, ...]:
    reading = vllm(*lines)
    assert reading is not None
    return reading.ranks


def by_full_parser(page: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_loaded_page() -> None:
    metrics = EndpointMetrics(
        waiting=12,
        running=8,
        kv_usage=0.09393346379647749,
        block_size=32,
        num_blocks=512,
        lora=LoraState(2, BOTH, BOTH),
        prefix_queries=4704.0,
        prefix_hits=1152.0,
        engine="vllm",
        source="scrape",
        updated=7.5,
    )
    assert parse_metrics(LOADED, 7.5) == metrics
    assert read(LOADED).metrics(7.5) == metrics


@pytest.mark.parametrize("path", sorted((DATA / "captures").glob("metrics_*.txt")), ids=lambda path: path.stem)
def test_histograms_of_captured_pages_equal_a_full_parse(path: Path) -> None:
    page = path.read_text()
    full = by_full_parser(page)
    reading = read(page)
    (rank,) = reading.ranks
    assert reading.skipped == 0
    for histogram, name in ((rank.ttft, "time_to_first_token"), (rank.itl, "inter_token_latency")):
        assert histogram is not None
        buckets = [(float(labels["le"]), value) for labels, value in full[f"vllm:{name}_seconds_bucket"]]
        assert list(zip(histogram.bounds, histogram.counts, strict=True)) == buckets
        assert histogram.total == full[f"vllm:{name}_seconds_sum"][0][1]
        assert histogram.count == full[f"vllm:{name}_seconds_count"][0][1]


def test_histograms_can_be_left_out() -> None:
    reading = parse_page(LOADED, histograms=False)
    assert reading is not None
    assert reading.ranks[0].ttft is reading.ranks[0].itl is None
    assert reading.metrics(0) == read(LOADED).metrics(0)


def test_the_newest_lora_series_wins_wherever_it_stands() -> None:
    metrics = parse_metrics((DATA / "captures/metrics_a_idle_after.txt").read_text(), 0)
    assert metrics is not None
    assert metrics.lora == LoraState(capacity=2), "the series without adapters is the newest, and the first"


def test_a_captured_page_of_two_ranks() -> None:
    """The second server's samples as another engine behind the same port; LoRA has no engine label."""
    other = (DATA / "captures/metrics_b_loaded_1.txt").read_text().replace('engine="0"', 'engine="1"')
    first, second = read(LOADED + other).ranks
    (alone,) = read(LOADED).ranks
    assert first == alone
    assert (second.rank, second.waiting, second.running, second.num_blocks) == (1, 8, 6, 96)
    assert (second.prefix_queries, second.prefix_hits) == (4098.0, 800.0)
    assert second.lora == first.lora
    assert second.ttft is not None
    assert second.ttft.count == 29
    metrics = read(LOADED + other).metrics(0)
    assert (metrics.ranks, metrics.waiting, metrics.running, metrics.num_blocks) == (2, 20, 14, 608)
    assert metrics.kv_usage == pytest.approx((0.09393346379647749 + 0.9263157894736842) / 2)
    assert metrics.lora == LoraState(2, BOTH, BOTH)


def test_models_are_added_up_not_taken_for_ranks() -> None:
    (rank,) = ranks(
        'vllm:num_requests_waiting{engine="3",model_name="a"} 3',
        'vllm:num_requests_waiting{engine="3",model_name="b"} 4',
        'vllm:kv_cache_usage_perc{engine="3",model_name="a"} 0.2',
        'vllm:kv_cache_usage_perc{engine="3",model_name="b"} 0.6',
        'vllm:time_to_first_token_seconds_bucket{engine="3",model_name="a",le="1"} 1',
        'vllm:time_to_first_token_seconds_bucket{engine="3",model_name="a",le="+Inf"} 2',
        'vllm:time_to_first_token_seconds_bucket{engine="3",model_name="b",le="1"} 3',
        'vllm:time_to_first_token_seconds_bucket{engine="3",model_name="b",le="+Inf"} 3',
        'vllm:time_to_first_token_seconds_sum{engine="3",model_name="a"} 3.5',
        'vllm:time_to_first_token_seconds_sum{engine="3",model_name="b"} 1.5',
    )
    assert (rank.rank, rank.waiting) == (3, 7)
    assert rank.kv_usage == pytest.approx(0.4)
    assert rank.ttft == Histogram((1.0, math.inf), (4.0, 5.0), 5.0)


def test_old_names_serve_only_without_the_new() -> None:
    (old,) = ranks(
        "vllm:gpu_cache_usage_perc 0.5",
        "vllm:gpu_prefix_cache_queries_total 8",
        'vllm:time_per_output_token_seconds_bucket{le="+Inf"} 1',
    )
    (both,) = ranks("vllm:gpu_cache_usage_perc 0.5", "vllm:kv_cache_usage_perc 0.25")
    assert (old.kv_usage, old.prefix_queries, both.kv_usage) == (0.5, 8.0, 0.25)
    assert old.itl == Histogram((math.inf,), (1.0,), 0.0)


def test_what_is_missing() -> None:
    assert vllm("vllm:prefix_cache_queries_total 8", 'vllm:lora_requests_info{max_lora="4"} 1') is None
    assert vllm("vllm:num_requests_waiting NaN") is None
    assert vllm("vllm:num_requests_running 2") == Reading("vllm", (RankReading(running=2),))
    first, second = ranks(
        'vllm:num_requests_running{engine="0"} 2',
        'vllm:num_requests_running{engine="1"} NaN',
        'vllm:kv_cache_usage_perc{engine="1"} 1.2',
    )
    assert (first.running, second.running) == (2, 0)
    assert (first.kv_usage, second.kv_usage) == (1.0, 1.0), "an unknown usage does not move the mean"


def test_what_cannot_be_read_is_counted() -> None:
    reading = vllm("vllm:num_requests_running 2", "vllm:num_requests_waiting -1", "vllm:kv_cache_usage_perc NaN")
    assert reading == Reading("vllm", (RankReading(running=2),), skipped=2)


def test_labels_of_the_cache_and_of_adapters() -> None:
    (rank,) = ranks(
        "vllm:num_requests_running 1",
        r'vllm:lora_requests_info{note="a\"},{b=\"c\\",max_lora="4",running_lora_adapters="x, y{1}"} 5',
        r'vllm:cache_config_info{odd="block_size=\"9\"",block_size="16",num_gpu_blocks="None",max_num_seqs="8"} 1.0',
    )
    assert rank.lora == LoraState(4, frozenset({"x", "y{1}"}))
    assert (rank.block_size, rank.num_blocks, rank.max_num_seqs) == (16, None, 8)


def test_adapters_by_rank() -> None:
    first, second = ranks(
        'vllm:num_requests_running{engine="0"} 1',
        'vllm:num_requests_running{engine="1"} 1',
        'vllm:lora_requests_info{engine="0",max_lora="4",running_lora_adapters="x"} 5',
        'vllm:lora_requests_info{engine="1",max_lora="4",running_lora_adapters="old"} 6',
        'vllm:lora_requests_info{engine="1",max_lora="4",running_lora_adapters="y"} 7',
    )
    assert [first.lora.running, second.lora.running] == [frozenset({"x"}), frozenset({"y"})]
    assert Reading("vllm", (first, second)).metrics(0).lora == LoraState(4, frozenset({"x", "y"}))


def test_buckets_in_any_state() -> None:
    name = "vllm:time_to_first_token_seconds"
    (rank,) = ranks(
        "vllm:num_requests_running 1",
        f'{name}_bucket{{le="0.5"}} 4',
        f'{name}_bucket{{le="0.1"}} 5',
        f'{name}_bucket{{le="x"}} 5',
        f'{name}_bucket{{le="NaN"}} 5',
        f"{name}_bucket 5",
        f"{name}_count 6",
        'vllm:inter_token_latency_seconds_bucket{le="1"} 7',
    )
    assert rank.ttft == Histogram((0.1, 0.5, math.inf), (5.0, 5.0, 6.0), 0.0)
    assert rank.itl == Histogram((1.0, math.inf), (7.0, 7.0), 0.0)


def test_too_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "MAX_RANKS", 3)
    reading = vllm(*(f'vllm:num_requests_running{{engine="{rank}"}} 1' for rank in range(10)))
    assert reading is not None
    assert (len(reading.ranks), reading.skipped) == (3, 7)


def test_huge_counts_and_odd_ranks() -> None:
    (rank,) = ranks(
        'vllm:num_requests_running{engine="0"} 1e300',
        'vllm:num_requests_running{engine="x"} 2',
        'vllm:num_requests_running{engine="99999999"} 2',
    )
    assert (rank.rank, rank.running) == (0, 2**53)


def test_sglang() -> None:
    reading = read(page_of("sglang_dp2"))
    first, second = reading.ranks
    assert (first.rank, first.waiting, first.running, first.kv_usage) == (0, 7, 5, 0.28)
    assert (second.rank, second.waiting, second.running, second.kv_usage) == (1, 2, 1, 0.12)
    assert [(rank.block_size, rank.num_blocks) for rank in reading.ranks] == [(64, 2048), (64, 2000)]
    assert (first.prefix_queries, first.prefix_hits) == (100.0, 40.0)
    assert first.ttft == Histogram((0.1, 0.2, math.inf), (2.0, 4.0, 6.0), 3.0)
    assert (second.prefix_queries, second.ttft) == (0.0, None), "told for the whole port: with the first rank"
    metrics = reading.metrics(1)
    assert (metrics.engine, metrics.ranks, metrics.waiting, metrics.num_blocks) == ("sglang", 2, 9, 4048)


def test_sglang_of_older_builds() -> None:
    page = (
        'sglang:num_queue_reqs{model_name="m"} 7.0\nsglang:token_usage{model_name="m"} 0.28\n'
        'sglang:cache_config_info{num_pages="2048",page_size="64"} 1.0\nsglang:cached_tokens_total 4\n'
    )
    assert read(page).ranks == (RankReading(waiting=7, kv_usage=0.28, block_size=64, num_blocks=2048, prefix_hits=4.0),)


def test_trtllm() -> None:
    (rank,) = read(page_of("trtllm_serve")).ranks
    assert (rank.waiting, rank.running, rank.kv_usage, rank.block_size, rank.num_blocks) == (2, 3, 0.5, 64, 100)
    assert (rank.prefix_queries, rank.prefix_hits) == (40 * 64, 30 * 64), "blocks, told in tokens"
    assert rank.ttft == Histogram((0.1, math.inf), (8.0, 10.0), 1.5)


def test_triton() -> None:
    page = page_of("triton_trtllm")
    assert read(page) == Reading("triton-tensorrt-llm", (RankReading(0, 4, 6, 0.25, 64, 6240, 512),))
    older = "\n".join(line for line in page.splitlines() if "fraction" not in line)
    assert read(older).ranks[0].kv_usage == 0.25, "used of max"
    assert read(page_of("triton")) == Reading("triton", (RankReading(waiting=14),))
    assert parse_page(page, TRITON) == Reading("triton", (RankReading(waiting=77),))


def test_llama_cpp_and_tgi() -> None:
    assert read(page_of("llama_cpp")) == Reading("llama.cpp", (RankReading(waiting=2, running=4),))
    assert read(page_of("llama_cpp") + "llamacpp:kv_cache_usage_ratio 0.5\n").ranks[0].kv_usage == 0.5
    assert read(page_of("tgi")) == Reading("tgi", (RankReading(waiting=6, running=2),))


def test_pages_of_nobody() -> None:
    for page in ("", "# vllm:a 1\n", "process_cpu_seconds_total 1", 'a{b="vllm:"} 1', "<html>vllm:</html>", "vllm:x 1"):
        assert parse_page(page) is None
        assert parse_metrics(page, 0) is None


class Told(NamedTuple):
    """What one model of one engine tells."""

    waiting: int
    running: int
    usage: float
    hits: int
    blocks: int
    times: list[float]


counts = st.integers(0, 10**6)
told = st.builds(
    Told, counts, counts, st.floats(0, 1), counts, st.integers(1, 10**6), st.lists(st.floats(0, 100), max_size=6)
)
series = st.tuples(st.sampled_from("0127"), st.text('ab"\\\n}# é', max_size=3))


def write_page(data: dict[tuple[str, str], Told], *, as_openmetrics: bool) -> str:
    """A page as vLLM's own library would write it: by (engine, model) what they tell."""
    registry, names = CollectorRegistry(), ["model_name", "engine"]
    waiting, running, usage = (
        Gauge(f"vllm:{name}", "x", names, registry=registry)
        for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc")
    )
    hits = Counter("vllm:prefix_cache_hits", "x", names, registry=registry)
    info = Gauge("vllm:cache_config_info", "x", ["engine", "block_size", "num_gpu_blocks"], registry=registry)
    ttft = Written("vllm:time_to_first_token_seconds", "x", names, registry=registry)
    for (engine, model), each in data.items():
        waiting.labels(model, engine).set(each.waiting)
        running.labels(model, engine).set(each.running)
        usage.labels(model, engine).set(each.usage)
        hits.labels(model, engine).inc(each.hits)
        info.labels(engine, "16", each.blocks).set(1)
        of_series = ttft.labels(model, engine)
        for time in each.times:
            of_series.observe(time)
    if as_openmetrics:
        return str(openmetrics.generate_latest(registry).decode())  # type: ignore[no-untyped-call]
    return generate_latest(registry).decode()


@given(st.dictionaries(series, told, min_size=1, max_size=6), st.booleans())
def test_written_pages_say_what_was_written(data: dict[tuple[str, str], Told], as_openmetrics: bool) -> None:
    """Against prometheus_client, which writes the page; in OpenMetrics' form it writes ``_`` for ``:``."""
    reading = read(write_page(data, as_openmetrics=as_openmetrics))
    assert (reading.engine, reading.skipped) == ("vllm", 0)
    assert [rank.rank for rank in reading.ranks] == sorted({int(engine) for engine, _ in data})
    for rank in reading.ranks:
        models = [each for (engine, _), each in data.items() if engine == str(rank.rank)]
        assert rank.waiting == sum(each.waiting for each in models)
        assert rank.running == sum(each.running for each in models)
        assert rank.prefix_hits == sum(each.hits for each in models)
        assert math.isclose(rank.kv_usage, sum(each.usage for each in models) / len(models), abs_tol=1e-12)
        assert rank.block_size == 16
        assert rank.num_blocks in {each.blocks for each in models}
        assert rank.ttft is not None
        times = [time for each in models for time in each.times]
        assert rank.ttft.counts == tuple(sum(time <= bound for time in times) for bound in rank.ttft.bounds)
        assert math.isclose(rank.ttft.total, math.fsum(times), abs_tol=1e-9)


@given(st.dictionaries(series, told, min_size=1, max_size=6))
def test_written_pages_equal_a_full_parse(data: dict[tuple[str, str], Told]) -> None:
    page = write_page(data, as_openmetrics=False)
    full = by_full_parser(page)

    def of_rank(name: str, rank: int, **wanted: str) -> float:
        wanted["engine"] = str(rank)
        return math.fsum(value for labels, value in full[f"vllm:{name}"] if wanted.items() <= labels.items())

    for rank in read(page).ranks:
        assert rank.waiting == of_rank("num_requests_waiting", rank.rank)
        assert rank.running == of_rank("num_requests_running", rank.rank)
        assert rank.prefix_hits == of_rank("prefix_cache_hits_total", rank.rank)
        assert rank.ttft is not None
        for le in {labels["le"] for labels, _ in full["vllm:time_to_first_token_seconds_bucket"]}:
            count = rank.ttft.counts[rank.ttft.bounds.index(float(le))]
            assert count == of_rank("time_to_first_token_seconds_bucket", rank.rank, le=le)


@given(st.text('vllm:num_requests_waiting{}="\\,#\n 0.5eNa', max_size=200), st.binary(max_size=50))
def test_garbage_never_raises(text: str, tail: bytes) -> None:
    for page in ("vllm:num_requests_waiting" + text + tail.decode("utf-8", "replace"), text):
        assert parse_page(page) is None or isinstance(parse_page(page), Reading)
        parse_metrics(page, 0, VLLM)
