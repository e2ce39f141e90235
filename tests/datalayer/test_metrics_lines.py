from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from pointsman.datalayer import metrics_lines
from pointsman.datalayer.engines import VLLM
from pointsman.datalayer.metrics_lines import Samples, read_samples

DATA = Path(__file__).parents[1] / "data"
PAGES = sorted([*(DATA / "captures").glob("metrics_*.txt"), *(DATA / "metrics").glob("*.txt")])
WAITING = "vllm:num_requests_waiting"

Found = dict[str, list[tuple[tuple[tuple[str, str], ...], float]]]
FullParser = Callable[[str], Iterable[Metric]]


def by_full_parser(page: str, names: frozenset[str], parser: FullParser = text_string_to_metric_families) -> Found:
    """Sorted, because families are put together again; of a series said twice the last one."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parser(page):
        for sample in family.samples:
            # The client gives counters the suffix that it misses.
            name = sample.name if sample.name in names else sample.name.removesuffix("_total")
            if name in names and 0 <= sample.value < math.inf:
                found.setdefault(name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return {name: sorted(series.items()) for name, series in found.items()}


def by_ours(page: str, names: frozenset[str]) -> Found:
    samples = read_samples(page, names).by_name
    return {
        name: sorted((tuple(sorted(labels.values.items())), value) for labels, value in series.items())
        for name, series in samples.items()
        if series
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pages_equal_a_full_parse(path: Path) -> None:
    page = path.read_text()
    assert by_ours(page, VLLM.names()) == by_full_parser(page, VLLM.names())
    every = frozenset(re.findall(r"^[a-z][\w:]*", page, re.MULTILINE))
    assert by_ours(page, every) == by_full_parser(page, every)


def test_pages_are_there() -> None:
    assert len(PAGES) == 10


def waiting(*lines: str) -> tuple[list[float], int]:
    samples = read_samples("\n".join(lines) + "\n", frozenset({WAITING}))
    return list(samples.by_name[WAITING].values()), samples.skipped


@pytest.mark.parametrize(
    "rest",
    [
        " NaN",
        " +Inf",
        " -1",
        " -0.5e-3",
        " ",
        " x",
        " 1_0",
        " 1 2 3",
        '{engine="0" 1',
        '{engine="0} 1',
        "{engine=0} 1",
        '{engine="0"}',
        '{engine="0"} _',
        "{{}} 1",
        " } 1",
        '{a="}#"} x',
        '{9a="b"} 1',
        '{a="b"} # {a="b"} 1',
        '{a="b"} nan # {a="b"} 1',
    ],
)
def test_a_garbage_line_is_left_out_and_counted(rest: str) -> None:
    assert waiting(WAITING + rest) == ([], 1)
    assert waiting(WAITING + rest, f'{WAITING}{{engine="7"}} 2') == ([2.0], 1)


@pytest.mark.parametrize(
    ("rest", "value"),
    [
        (" 3", 3.0),
        ("\t3\t", 3.0),
        (" 3\r", 3.0),
        (" 1.5e+03", 1500.0),
        (" 1E3", 1000.0),
        (" .5", 0.5),
        (" -0.0", 0.0),
        ("{} 3", 3.0),
        (' \t{ engine = "0" , }\t 3 1700000000000\r', 3.0),
        ('{engine="0"} 3 1700000000.123', 3.0),
        ('{engine="0"} 3 # {trace_id="a}b"} 0.5 1700000000.1', 3.0),
        (' 3 # {trace_id="ab"} 0.5', 3.0),
        ('{engine="#0"} 3', 3.0),
        ('{engine="}#{"} 3 # {trace_id="ab"} 0.5', 3.0),
        ('{engine="0"}3', 3.0),
    ],
)
def test_forms_of_a_line(rest: str, value: float) -> None:
    assert waiting("  " + WAITING + rest) == ([value], 0)


def test_the_last_of_a_series_said_twice_counts() -> None:
    assert waiting(f'{WAITING}{{a="1"}} 5', f'{WAITING}{{a="1"}} 6', f'{WAITING}{{a="2"}} 7') == ([6.0, 7.0], 1)


def test_twins_and_longer_names_are_others() -> None:
    others = (
        f'{WAITING}_by_reason{{reason="capacity"}} 50',
        f"{WAITING}_created 1.7e9",
        f"my_{WAITING} 9",
        f"# {WAITING} 9",
        f'other{{x="{WAITING} 9"}} 1',
        f"{WAITING}",
    )
    assert waiting(*others, f"{WAITING} 1") == ([1.0], 0)


def test_labels_are_unescaped() -> None:
    samples = read_samples(WAITING + r'{a="x\"},{y=\"\\n\n",b=""} 1', frozenset({WAITING}))
    (labels,) = samples.by_name[WAITING]
    assert labels.values == {"a": 'x"},{y="\\n\n', "b": ""}


def test_too_many_lines_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'{WAITING}{{engine="{number}"}} 1' for number in range(50)]
    monkeypatch.setattr(metrics_lines, "MAX_SAMPLES", 5)
    assert waiting(*lines) == ([1.0] * 5, 45)
    monkeypatch.setattr(metrics_lines, "MAX_AT_ONCE", 100)
    values, skipped = waiting(*lines)
    assert values == [1.0] * 5
    assert skipped >= 45
    assert waiting(*lines[:4]) == ([1.0] * 4, 0)


def test_too_long_a_line_is_left_out() -> None:
    adapters = ",".join(f"adapter-number-{number}" for number in range(2000))
    assert waiting(f'{WAITING}{{adapters="{adapters}"}} 3') == ([3.0], 0)
    for line in (f'{WAITING}{{a="{"x" * metrics_lines.MAX_LINE}"}} 3', f"{WAITING} 3{' ' * metrics_lines.MAX_LINE}x"):
        assert waiting(line, f"{WAITING} 3") == ([3.0], 1)


def test_a_huge_page_is_read_to_its_end() -> None:
    filler = 'other_metric{label="value"} 1.0\n' * (4 * 1024 * 1024 // 32)
    assert waiting(filler + f"{WAITING} 3") == ([3.0], 0)


@pytest.mark.parametrize("filler", ['a="b",', "\\", '"', " ", "{", "}", "#", 'a="' + "\\" * 50, "1", "\x00", "}#"])
def test_no_slow_regular_expressions(filler: str) -> None:
    """Were one of them quadratic, 4 MB would take hours, and the test its time-out."""
    hostile = filler * (4 * 1024 * 1024 // len(filler))
    values, skipped = waiting(WAITING + "{" + hostile, WAITING + " " + hostile, f"{WAITING} 3")
    assert values == [3.0]
    assert skipped == 2


def test_hostile_lines_are_many() -> None:
    line = f'{WAITING}{{engine="0",x="'
    values, skipped = waiting(*(f'{line}{number}"}} x' for number in range(80_000)))
    assert (values, skipped > 70_000) == ([], True)


label_text = st.text('ab\\"\n{},= #é', max_size=6)
series = st.tuples(
    st.sampled_from([*sorted(VLLM.names()), f"{WAITING}_by_reason", "other"]),
    st.dictionaries(st.sampled_from(["engine", "model_name", "block_size", "le"]), label_text, max_size=3),
    st.floats(allow_nan=True) | st.integers(-5, 10**6).map(float),
)


@given(st.lists(series, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_random_pages_equal_a_full_parse(lines: list[tuple[str, dict[str, str], float]], end: str) -> None:
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
    assert by_ours(page.replace("\n", end), VLLM.names()) == by_full_parser(page, VLLM.names())


@given(
    st.lists(st.floats(0, 10), max_size=8),
    st.integers(0, 100),
    st.text("ab#}{ ", min_size=1, max_size=5),
)
def test_openmetrics_pages_equal_a_full_parse(times: list[float], hits: int, text: str) -> None:
    registry = CollectorRegistry()
    names = ["engine", "model_name"]
    ttft = Histogram("vllm:time_to_first_token_seconds", "Time.", names, unit="seconds", registry=registry)
    counter = Counter("vllm:prefix_cache_hits", "Hits.", names, registry=registry)
    Gauge(WAITING, "Waiting.", names, registry=registry).labels("0", text).set(hits)
    for time in times:
        ttft.labels("0", text).observe(time, exemplar={"trace_id": "a}b #1"})
    counter.labels("1", text).inc(hits, exemplar={"trace_id": "abc"})
    page = openmetrics.generate_latest(registry, escaping="allow-utf-8").decode()  # type: ignore[no-untyped-call]
    assert page.endswith("# EOF\n")
    wanted = VLLM.names()
    assert by_ours(page, wanted) == by_full_parser(page, wanted, openmetrics_families)
    assert read_samples(page, wanted).skipped == 0


@given(st.text('vllm:num_requests_waiting{}="\\,#\n 0.5eNa', max_size=200), st.binary(max_size=50))
def test_garbage_never_raises(text: str, tail: bytes) -> None:
    names = VLLM.names()
    for page in (text, WAITING + text + tail.decode("utf-8", "replace"), f"{WAITING}{{{text}}} 1"):
        samples = read_samples(page, names)
        assert isinstance(samples, Samples)
        assert all(0 <= value < math.inf for found in samples.by_name.values() for value in found.values())
