from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.datalayer.orca import MAX_CHARS, LoadReport, parse_load_report


@pytest.mark.parametrize(
    ("value", "report"),
    [
        # vLLM 0.32, as seen
        ("TEXT named_metrics.kv_cache_usage_perc=0.5, named_metrics.num_requests_waiting=3.0", LoadReport(3, 0.5)),
        ('JSON {"named_metrics": {"kv_cache_usage_perc": 0.5, "num_requests_waiting": 3.0}}', LoadReport(3, 0.5)),
        # its front end in Rust leaves the format out
        ("named_metrics.kv_cache_usage_perc=0,named_metrics.num_requests_waiting=0", LoadReport(0, 0.0)),
        ('{"named_metrics":{"kv_cache_usage_perc":1,"num_requests_waiting":2}}', LoadReport(2, 1.0)),
        ("text  named_metrics.num_requests_waiting=1e1 ", LoadReport(10, None)),
        # Triton
        ("TEXT cpu_utilization=0.3, named_metrics.kv_cache_utilization=0.25", LoadReport(None, 0.25)),
        ("TEXT named_metrics.kv_cache_usage_perc=nan, named_metrics.num_requests_waiting=-1", None),
        ("TEXT named_metrics.kv_cache_usage_perc=1.5, named_metrics.num_requests_waiting=inf", None),
        ("TEXT cpu_utilization=0.3", None),
        ("BIN CgkJMzMzMzMz0z8=", None),
        ("JSON", None),
        ("JSON [1]", None),
        ('JSON {"named_metrics": {"num_requests_waiting": "3"}}', None),
        ("", None),
        ("   ", None),
        ("x" * (MAX_CHARS + 1), None),
    ],
)
def test_values(value: str, report: LoadReport | None) -> None:
    assert parse_load_report(value) == report


@given(st.text() | st.text(alphabet='TEXJSON named_metrics.=,0123456789e{}:"'))
def test_whatever_comes(value: str) -> None:
    parse_load_report(value)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_both_forms_say_the_same(waiting: int, usage: float) -> None:
    named = {"kv_cache_usage_perc": usage, "num_requests_waiting": float(waiting)}
    text = "TEXT " + ", ".join(f"named_metrics.{name}={value!r}" for name, value in named.items())
    json = "JSON " + msgspec.json.encode({"named_metrics": named}).decode()
    assert parse_load_report(text) == parse_load_report(json) == LoadReport(waiting, usage)
