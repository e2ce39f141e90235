from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_endpoint

from pointsman.api.config import PrometheusConfig
from pointsman.api.endpoint import Endpoint, EndpointId, EndpointMetrics
from pointsman.datalayer.promql_client import PrometheusError, parse_answer
from pointsman.datalayer.promql_queries import (
    VLLM_QUERIES,
    Matcher,
    Question,
    Sample,
    merged,
    questions,
    sample_age,
    sort_answers,
)

CONFIG = PrometheusConfig(url="http://prometheus:9090", selector='job="vllm"', window="2m")
POD = EndpointId("llm/vllm-0-rank-0")
OTHER = EndpointId("llm/vllm-0-rank-1")


def ranks() -> list[Endpoint]:
    return [Endpoint(POD, "10.0.0.1", 8000), Endpoint(OTHER, "10.0.0.1", 8001, slot=1)]


def test_default_queries() -> None:
    asked = questions(CONFIG, ranks())
    assert [question.gauge for question in asked] == list(VLLM_QUERIES)
    texts = {question.gauge: question.query for question in asked}
    assert texts["waiting"] == 'sum by (instance, namespace, pod) (vllm:num_requests_waiting{job="vllm"})'
    assert texts["ttftP95"] == (
        "histogram_quantile(0.95, sum by (instance, namespace, pod, le) "
        '(rate(vllm:time_to_first_token_seconds_bucket{job="vllm"}[2m])))'
    )


def test_values_cannot_end_the_quotes() -> None:
    endpoint = make_endpoint(0, models=frozenset({'x"} or vector(1) or y{a="\\'}))
    config = PrometheusConfig(url="http://p", queries={"waiting": 'w{model="{model}"}'})
    query = questions(config, [endpoint])[0].query
    assert query == 'w{model="x\\"} or vector(1) or y{a=\\"\\\\"}'


def test_matching() -> None:
    matcher = Matcher([*ranks(), Endpoint(EndpointId("llm/vllm-1"), "fd00::1", 80)])
    assert matcher.find({"instance": "10.0.0.1:8001", "pod": "other"}) == OTHER
    assert matcher.find({"instance": "[fd00::1]:80"}) == "llm/vllm-1"
    assert matcher.find({"instance": "node:9100", "pod": "vllm-1", "namespace": "llm"}) == "llm/vllm-1"
    assert matcher.find({"pod": "vllm-1"}) == "llm/vllm-1"
    assert matcher.find({"pod": "vllm-1", "namespace": "elsewhere"}) is None
    assert matcher.find({"pod": "vllm-0", "namespace": "llm"}) is None, "two ports: which of them?"
    assert matcher.find({"pod": "vllm-0-rank-1", "namespace": "llm"}) == OTHER
    assert matcher.find({}) is None


def test_one_port_needs_no_instance() -> None:
    assert Matcher(ranks()[:1]).find({"pod": "vllm-0", "namespace": "llm"}) == POD


def test_only_numbers_count_and_the_first_of_a_quantity() -> None:
    question = Question("waiting", "q")
    samples = [Sample({"instance": "10.0.0.1:8000"}, 1.0, value) for value in (math.nan, math.inf, -1.0, 4.0, 5.0)]
    assert sort_answers([(question, samples)], Matcher(ranks())) == {POD: {"waiting": samples[3]}}


def test_age() -> None:
    waiting = Sample({}, 100.0, 3.0)
    assert sample_age({"waiting": waiting}) is None, "nobody knows how old"
    assert sample_age({"waiting": waiting, "sampledAt": Sample({}, 100.0, 88.5)}) == 11.5
    assert sample_age({"running": waiting, "sampledAt": Sample({}, 100.0, 100.2)}) == 0.0
    assert sample_age({"kvUsage": waiting, "sampledAt": Sample({}, 100.0, 88.5)}) is None


def test_merged_bounds() -> None:
    values = {"running": Sample({}, 0, 2.6), "kvUsage": Sample({}, 0, 1.7)}
    metrics = merged(EndpointMetrics(waiting=4), msgspec.convert(values, dict), 5.0, 30.0)
    assert (metrics.waiting, metrics.running, metrics.kv_usage, metrics.updated) == (4, 3, 1.0, 5.0)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "prometheus:9090"},
        {"url": "http://user:secret@prometheus"},
        {"url": "http://prometheus/?x=1"},
        {"periodSeconds": 0},
        {"window": "1 minute"},
        {"queries": {"queue": "x"}},
        {"queries": {"sampledAt": " "}},
        {"username": "me"},
        {"username": "me", "passwordFile": "p", "bearerTokenFile": "t"},
        {"token": "x"},
    ],
)
def test_options_refused(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": "http://prometheus:9090"} | change, PrometheusConfig)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"status":"error"}',
        b'{"status":"success"}',
        b'{"status":"success","data":{"resultType":"string","result":[1,"x"]}}',
        b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"x"]}]}}',
        b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1]}]}}',
        b'{"status":"success","data":{"resultType":"vector","result":null}}',
        b'{"status":"success","data":{"resultType":"scalar","result":[[],"1"]}}',
        b"[" * 100_000,
    ],
)
def test_answers_refused(body: bytes) -> None:
    with pytest.raises(PrometheusError):
        parse_answer(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(body: bytes) -> None:
    try:
        parse_answer(body)
    except PrometheusError:
        return


def test_values_of_prometheus_that_are_no_finite_numbers_can_be_read() -> None:
    body = b'{"status":"success","data":{"resultType":"vector","result":[%s]}}' % b",".join(
        b'{"metric":{"a":"b"},"value":[1.5,"%s"]}' % value for value in (b"NaN", b"+Inf", b"-Inf", b"1e3")
    )
    assert [sample.value for sample in parse_answer(body)][1:] == [math.inf, -math.inf, 1000.0]
