from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.traces.trace_builders import AZURE, CONTENT, MOONCAKE, lines_of, write

from pointsman.errors import TraceError
from pointsman.lab.trace_stats import summary, trace_stats
from pointsman.lab.traces import FORMATS


def test_mooncake(tmp_path: Path) -> None:
    found = trace_stats(write(tmp_path, CONTENT["mooncake"]), caches=(1000, 3000))
    assert (found.format, found.requests, found.duration, found.sessions) == ("mooncake", 3, 6.5, 0)
    assert found.qps == pytest.approx(3 / 6.5)
    assert found.interarrival_cv == pytest.approx(0.25 / 3.25)
    assert (found.input["mean"], found.input["p50"], found.input["max"]) == (880.67, 1030, 1100)
    assert found.reuse is not None
    assert found.reuse.hit_tokens == 1024
    assert found.reuse.lru == {"1000": pytest.approx(512 / 2642), "3000": pytest.approx(1024 / 2642)}


def test_sessions_with_thinking(tmp_path: Path) -> None:
    found = trace_stats(write(tmp_path, CONTENT["agentic"]))
    assert (found.sessions, found.duration, found.qps) == (2, None, None)
    assert found.requests_per_session["max"] == 2
    assert (found.think["mean"], found.think["max"]) == (6.5, 6.5)
    assert found.reuse is not None
    assert found.reuse.hit_tokens == 64


def test_conversations_of_deltas_count_whole_prompts(tmp_path: Path) -> None:
    found = trace_stats(write(tmp_path, CONTENT["aiperf"]))
    assert found.input["max"] == 660
    assert found.reuse is not None
    assert found.reuse.hit_tokens == 576


def test_nothing_is_said_of_reuse_where_nothing_is_known(tmp_path: Path) -> None:
    assert trace_stats(write(tmp_path, AZURE)).reuse is None


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, CONTENT[name])
    found = trace_stats(path)
    assert found.format == name
    assert found.requests >= 2
    assert trace_stats(path, name, limit=1).requests == 1


def test_a_broken_line_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=":4: no JSON"):
        trace_stats(write(tmp_path, CONTENT["mooncake"] + "{"))


def test_far_from_order_needs_sorting(tmp_path: Path) -> None:
    rows = [{**MOONCAKE[0], "timestamp": stamp} for stamp in (0, 400_000, 500_000, 1000)]
    path = write(tmp_path, lines_of(rows))
    with pytest.raises(TraceError, match="--sort"):
        trace_stats(path)
    assert trace_stats(path, sort=True).duration == 500.0


@given(st.lists(st.integers(0, 50), min_size=1))
def test_percentiles_are_nearest_ranks(values: list[int]) -> None:
    found = summary(Counter(values))
    ordered = sorted(values)
    assert found["p50"] == ordered[(len(values) + 1) // 2 - 1]
    assert found["max"] == ordered[-1]
    assert found["mean"] == round(sum(values) / len(values), 2)
