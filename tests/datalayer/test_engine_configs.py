from __future__ import annotations

from typing import Any

import pytest

from pointsman.api.endpoint import LoraState
from pointsman.datalayer.engine_configs import (
    ENGINE_LABELS,
    EngineConfig,
    engine_of,
    engines_with,
    find_engine,
    parse_spec,
    read_engine_configs,
)
from pointsman.datalayer.engines import ENGINES, SGLANG, VLLM, Selector, detect_engine
from pointsman.datalayer.metrics_page import parse_page
from pointsman.datalayer.reading import RankReading, Reading
from pointsman.errors import ConfigError, ConfigErrors

ATOM: dict[str, Any] = {
    "name": "atom",
    "queuedRequestsSpec": "atom:requests{state=waiting}",
    "runningRequestsSpec": 'atom:requests{state="running",kind="all"}',
    "kvUsageSpec": "atom:kv_used",
    "loraSpec": "atom:lora",
    "cacheInfoSpec": "atom:cache_info",
    "cacheBlockSizeLabelName": "page",
    "cacheNumBlocksSpec": "atom:blocks",
    "customMetrics": [{"attributeKey": "k", "metricSpec": "atom:temperature"}],
}
PAGE = """\
atom:requests{state="waiting",kind="all"} 3
atom:requests{state="running",kind="all"} 5
atom:requests{state="running",kind="some"} 4
atom:kv_used 0.5
atom:cache_info{page="32",num_gpu_blocks="7"} 1
atom:blocks 100
atom:lora{max_lora="2",running_lora_adapters="x"} 1
"""


def test_an_engine_of_the_users() -> None:
    engines = engines_with(read_engine_configs([ATOM]))
    assert engines[1:] == ENGINES
    assert detect_engine(PAGE, engines) is engines[0]
    reading = parse_page(PAGE, engines=engines)
    assert reading is not None
    assert (reading.engine, reading.skipped) == ("atom", 0)
    (rank,) = reading.ranks
    assert (rank.waiting, rank.running, rank.kv_usage, rank.block_size, rank.num_blocks) == (3, 5, 0.5, 32, 100)
    assert rank.lora == LoraState(2, frozenset({"x"}))


def test_ranks_of_the_users_engine() -> None:
    engines = engines_with([EngineConfig("mine", queued_requests_spec="mine_waiting")])
    page = 'mine_waiting{engine="0"} 1\nmine_waiting{engine="1"} 2\n'
    ranks = (RankReading(0, waiting=1), RankReading(1, waiting=2))
    assert parse_page(page, engines=engines) == Reading("mine", ranks)


def test_a_built_in_name_is_taken_over() -> None:
    config = EngineConfig("vllm", running_requests_spec="vllm:num_requests_running")
    engines = engines_with([config])
    assert [engine.name for engine in engines].count("vllm") == 1
    page = 'vllm:num_requests_running 2\nvllm:num_requests_waiting 9\nvllm:time_to_first_token_seconds_bucket{le="1"} 1'
    reading = parse_page(page, engines=engines)
    assert reading is not None
    assert (reading.ranks[0].running, reading.ranks[0].waiting) == (2, 0)
    assert reading.ranks[0].ttft is not None, "llm-d has no words for it, so it stays"


def test_built_in_engines_are_recognised_before_others_with_the_same_metrics() -> None:
    engines = engines_with([EngineConfig("mine", running_requests_spec="vllm:num_requests_running")])
    assert detect_engine("vllm:num_requests_running 1\n", engines) is VLLM


@pytest.mark.parametrize(
    ("spec", "selector"),
    [
        ("", None),
        ("  ", None),
        ("a:b_c", Selector("a:b_c")),
        (" a { } ", Selector("a")),
        ("a{b=c}", Selector("a", (("b", "c"),))),
        ('a{b=c, d="e f,g}" ,}', Selector("a", (("b", "c"), ("d", "e f,g}")))),
        ('a{b=""}', Selector("a", (("b", ""),))),
    ],
)
def test_specs(spec: str, selector: Selector | None) -> None:
    assert parse_spec(spec, "field") == selector


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a b", "is no metric.*write name or name"),
        ("{a=b}", "is no metric"),
        ("9a", "is no metric"),
        ("sum(a)", "is no metric"),
        ("a{b}", "'b' is no label"),
        ("a{b=c d}", "is no label"),
        ("a{b!=c}", "!= is not supported"),
        ('a{b=~"c.*"}', "=~ is not supported"),
    ],
)
def test_specs_that_cannot_be_understood(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^x.queuedRequestsSpec: .*{message}"):
        parse_spec(spec, "x.queuedRequestsSpec")


def test_all_that_is_wrong_is_said() -> None:
    configs = [
        EngineConfig("a", queued_requests_spec="b c", kv_usage_spec="d e"),
        EngineConfig("default", queued_requests_spec="b"),
        EngineConfig("c"),
        EngineConfig("d", queued_requests_spec="b"),
        EngineConfig("d", queued_requests_spec="b"),
    ]
    with pytest.raises(ConfigErrors) as caught:
        engines_with(configs)
    assert [error.field for error in caught.value.errors] == [
        "engineConfigs[0].queuedRequestsSpec",
        "engineConfigs[0].kvUsageSpec",
        "engineConfigs[1].name",
        "engineConfigs[2]",
        "engineConfigs[4].name",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "engineConfigs: Expected `array`"),
        ([{}], r"engineConfigs\[0\]: .*missing required field `name`"),
        ([{"name": "a", "kvUsage": "b"}], r"engineConfigs\[0\]: .*unknown field `kvUsage`"),
        ([{"name": "a", "kvUsageSpec": 3}], r"engineConfigs\[0\]\.kvUsageSpec: Expected `str`"),
    ],
)
def test_files_that_hold_something_else(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_engine_configs(data)


def test_labels_pick_the_engine() -> None:
    new, old = ENGINE_LABELS
    assert engine_of({}) == (None, "")
    assert engine_of({"app": "vllm", new: " "}) == (None, "")
    assert engine_of({new: "sglang"}) == (SGLANG, "")
    assert engine_of({old: "vLLM"}) == (VLLM, "")
    assert engine_of({new: "vllm", old: "vllm"}) == (VLLM, "")
    assert engine_of({new: "vllm", old: "sglang"}) == (None, "ambiguous")
    assert engine_of({new: "vllm", old: "nonsense"}) == (None, "unknown")
    assert engine_of({"my/engine": "sglang", new: "vllm"}, keys=("my/engine",)) == (SGLANG, "")
    custom = engines_with(read_engine_configs([ATOM]))
    assert engine_of({new: "atom"}) == (None, "unknown")
    assert engine_of({new: "atom"}, custom) == (custom[0], "")


def test_engines_by_name() -> None:
    assert find_engine("trtllm") is find_engine("TRTLLM-serve")
    assert find_engine("auto") is None
