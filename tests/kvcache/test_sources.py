from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pointsman.kvcache.sources import EventSource, parse_topic, port_sources, sources_of

VLLM = {
    "0": {"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://127.0.0.1:6557", "buffer_steps": 60, "topic": "kv@a@m"},
    "1": {"endpoint": "tcp://10.9.9.9:40001", "replay_endpoint": "tcp://0.0.0.0:40002"},
}


def test_vllm_sources() -> None:
    assert sources_of(VLLM, "10.0.0.7") == (
        EventSource("tcp://10.0.0.7:5557", "", 0, "kv@a@m"),  # its replay socket is for the pod itself
        EventSource("tcp://10.9.9.9:40001", "tcp://10.0.0.7:40002", 1),
    )
    assert sources_of(VLLM, "127.0.0.1")[0] == EventSource("tcp://127.0.0.1:5557", "tcp://127.0.0.1:6557", 0, "kv@a@m")
    assert sources_of(VLLM, "fd00::7")[0].endpoint == "tcp://[fd00::7]:5557"


def test_sources_that_do_not_publish() -> None:
    off: list[dict[str, Any]] = [
        {"endpoint": "tcp://*:5557", "enable_kv_cache_events": False},
        {"endpoint": "tcp://*:5557", "publisher": "null"},
        {"endpoint": "ipc:///tmp/x"},
        {"endpoint": "tcp://*:0"},
        {},
    ]
    assert [sources_of({"0": one}, "h") for one in off] == [()] * 5
    kept = {"endpoint": "tcp://*:1", "replay_endpoint": "tcp://*:2", "buffer_steps": 0}
    assert sources_of({"0": kept}, "h") == (EventSource("tcp://h:1"),)


def test_sglang_sources() -> None:
    events = {"publisher": "zmq", "endpoint_host": "*", "endpoint_port_base": 5557, "topic": "kv-events", "dp_size": 2}
    answer = {"kv_events": events | {"replay_endpoint_port_base": 6557}, "version": "0.5.23"}
    assert sources_of(answer, "h") == (
        EventSource("tcp://h:5557", "tcp://h:6557", 0, "kv-events"),
        EventSource("tcp://h:5558", "tcp://h:6558", 1, "kv-events"),
    )
    assert sources_of({"kv_events": {"publisher": "zmq"}}, "h") == ()


def test_sources_by_convention() -> None:
    assert port_sources("h", 5557, ranks=2)[1] == EventSource("tcp://h:5558", "", 1)


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (b"kv@p@m", ("p", "m")),
        (b"kv@p@a@b", ("p", "a@b")),
        (b"kv@p", ("p", "")),
        (b"kv@@m", None),
        (b"kv", None),
        (b"\xff@", None),
    ],
)
def test_topics(topic: bytes, expected: tuple[str, str] | None) -> None:
    assert parse_topic(topic) == expected


anything = st.recursive(
    st.none() | st.integers() | st.text(max_size=9) | st.just("tcp://*:5557"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "-1", "kv_events", "endpoint", "endpoint_port_base", "dp_size"]), inner)
    ),
)


@given(anything)
def test_any_json_is_read(answer: Any) -> None:
    for source in sources_of(answer, "h"):
        assert source.endpoint.startswith("tcp://")


def test_the_captured_answer() -> None:
    path = Path(__file__).parents[1] / "data/captures/kv_event_sources_a.json"
    assert sources_of(json.loads(path.read_text()), "10.0.0.7")[0].topic == "kv@pod-a@tiny"
