from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.errors import ConfigError
from pointsman.kube.objects import (
    Pool,
    Selector,
    decode_legacy_pool,
    decode_objective,
    decode_pod,
    decode_pool,
    decode_rewrite,
    make_pool,
)

META = {"name": "x", "namespace": "ns"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "name", "spec", "status", "podIP", "conditions", "rules", "selector", "labels", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def _pool(**spec: Any) -> bytes:
    base: dict[str, Any] = {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}]}
    return msgspec.json.encode({"metadata": META, "spec": base | spec})


def test_a_pool_as_the_api_server_gives_it() -> None:
    raw = _pool(
        appProtocol="kubernetes.io/h2c",
        endpointPickerRef={"group": "", "kind": "Service", "name": "epp", "port": {"number": 9002}},
        newField={"of": "a later version"},
    )
    assert decode_pool(raw) == Pool(
        "x", "ns", {"app": "vllm"}, (8000,), app_protocol="kubernetes.io/h2c", failure_mode="FailClose"
    )
    assert decode_pool(_pool()).failure_mode is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"targetPorts": []}, "targetPorts"),
        ({"targetPorts": [{"number": 0}]}, "targetPorts"),
        ({"targetPorts": [{"number": 65536}]}, "targetPorts"),
        ({"targetPorts": [{"number": 1}, {"number": 1}]}, "different ports"),
        ({"targetPorts": [{"number": n} for n in range(1, 10)]}, "targetPorts"),
        ({"selector": {}}, "every pod"),
        ({"selector": {"matchLabels": {"a": 1}}}, "matchLabels"),
        ({"selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}, "matchLabels"),
    ],
)
def test_a_pool_that_cannot_be_used(spec: dict[str, Any], words: str) -> None:
    with pytest.raises((msgspec.ValidationError, ConfigError), match=words):
        decode_pool(_pool(**spec))


def test_a_pool_of_the_old_group() -> None:
    spec = {
        "selector": {"app": "vllm"},
        "targetPortNumber": 8000,
        "extensionRef": {"name": "e", "failureMode": "FailOpen"},
    }
    raw = msgspec.json.encode({"metadata": META, "spec": spec})
    assert decode_legacy_pool(raw) == Pool("x", "ns", {"app": "vllm"}, (8000,), failure_mode="FailOpen")


def test_a_pool_needs_a_selector_and_ports() -> None:
    with pytest.raises(ConfigError, match="every pod"):
        make_pool("x", "ns", {}, [1])
    with pytest.raises(ConfigError, match="1 to 8"):
        make_pool("x", "ns", {"a": "b"}, [])


@pytest.mark.parametrize(
    ("conditions", "deleted", "ready"),
    [
        ([{"type": "Ready", "status": "True"}], None, True),
        ([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}], None, True),
        ([{"type": "Ready", "status": "False"}], None, False),
        ([{"type": "Ready", "status": "Unknown"}], None, False),
        ([{"type": "Ready", "status": "True"}], "2026-01-01T00:00:00Z", False),
        ([], None, False),
        (None, None, False),
    ],
)
def test_when_a_pod_is_ready(conditions: list[dict[str, str]] | None, deleted: str | None, ready: bool) -> None:
    meta = META | ({"deletionTimestamp": deleted} if deleted else {})
    pod = decode_pod(msgspec.json.encode({"metadata": meta, "status": {"podIP": "10.0.0.1", "conditions": conditions}}))
    assert pod.ready is ready


def test_a_pod_that_has_no_status_yet() -> None:
    assert not decode_pod(b'{"metadata": {"name": "x"}}').ready


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1", "c": "3"}}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, {"a": "1"}, False),
        ({}, {"a": "1"}, False),
    ],
)
def test_selectors(selector: dict[str, Any], labels: dict[str, str], matches: bool) -> None:
    assert msgspec.convert(selector, Selector).matches(labels) is matches


@pytest.mark.parametrize(
    "targets",
    [
        [],
        [{"modelRewrite": ""}],
        [{"modelRewrite": "a", "weight": -1}],
        [{"modelRewrite": "a", "weight": 1_000_001}],
        [{"modelRewrite": "a", "weight": 1}, {"modelRewrite": "b"}],
    ],
)
def test_a_rewrite_that_cannot_be_used(targets: list[dict[str, Any]]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_rewrite(msgspec.json.encode({"metadata": META, "spec": {"rules": [{"targets": targets}]}}))


def test_a_priority_is_an_int32() -> None:
    for priority in (-(2**31), 0, 2**31 - 1, None):
        decode_objective(msgspec.json.encode({"metadata": META, "spec": {"priority": priority}}))
    with pytest.raises(msgspec.ValidationError, match="priority"):
        decode_objective(msgspec.json.encode({"metadata": META, "spec": {"priority": 2**31}}))


@settings(deadline=None)
@given(JSON)
def test_anything_else_raises_what_is_caught(value: Any) -> None:
    raw = msgspec.json.encode(value)
    for decode in (decode_pod, decode_pool, decode_legacy_pool, decode_objective, decode_rewrite):
        with suppress(msgspec.DecodeError, ConfigError):
            decode(raw)
