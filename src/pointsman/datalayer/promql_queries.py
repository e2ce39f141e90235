"""What is asked of Prometheus, and which endpoint a sample of the answer belongs to. No I/O.

A query asks for all endpoints at once, ten queries for a fleet of any size; one with a placeholder of a single endpoint
in it (``{pod}``, ``{address}``, ...) is asked once for each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from pointsman.api.config import GaugeName, PrometheusConfig
from pointsman.api.endpoint import MODEL_LABEL, Endpoint, EndpointId, EndpointMetrics, Quantiles

_BY = "by (instance, namespace, pod)"


def _quantile(share: float, *names: str) -> str:
    rates = " or ".join(f"rate({name}_bucket{{{{selector}}}}[{{window}}])" for name in names)
    return f"histogram_quantile({share}, sum by (instance, namespace, pod, le) ({rates}))"


def _count(*names: str) -> str:
    return f"sum {_BY} (" + " or ".join(f"increase({name}_count{{{{selector}}}}[{{window}}])" for name in names) + ")"


_TTFT = ("vllm:time_to_first_token_seconds",)
_ITL = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")  # the latter until 0.14

VLLM_QUERIES: Mapping[GaugeName, str] = {
    "waiting": f"sum {_BY} (vllm:num_requests_waiting{{{{selector}}}})",
    "running": f"sum {_BY} (vllm:num_requests_running{{{{selector}}}})",
    "kvUsage": f"avg {_BY} (vllm:kv_cache_usage_perc{{{{selector}}}} or vllm:gpu_cache_usage_perc{{{{selector}}}})",
    # The time of an instant query's sample is the time of the question; this is the time of the scrape.
    "sampledAt": f"min {_BY} (timestamp(vllm:num_requests_waiting{{{{selector}}}}))",
    "ttftP50": _quantile(0.5, *_TTFT),
    "ttftP95": _quantile(0.95, *_TTFT),
    "ttftCount": _count(*_TTFT),
    "itlP50": _quantile(0.5, *_ITL),
    "itlP95": _quantile(0.95, *_ITL),
    "itlCount": _count(*_ITL),
}
"""Sums over data-parallel ranks and models behind one port, as the direct reading has it."""

_SINGLE = re.compile(r"\{(pod|address|port|model|namespace)\}")
_GENERAL = re.compile(r"\{(selector|window)\}")
_RANK = re.compile(r"-rank-\d+\Z")


class Question(NamedTuple):
    """One query."""

    gauge: GaugeName
    query: str
    endpoint: EndpointId | None = None
    """Whose answer it is, whatever labels it has; None: to be matched."""


class Sample(NamedTuple):
    """One series of an instant vector."""

    labels: Mapping[str, str]
    asked_at: float
    """When the query was evaluated, seconds since 1970 by the clock of Prometheus."""
    value: float


Values = dict[GaugeName, Sample]
"""What is known of one endpoint."""


def questions(config: PrometheusConfig, endpoints: Sequence[Endpoint]) -> list[Question]:
    """All queries of a round."""
    asked: list[Question] = []
    queries: dict[GaugeName, str] = {**VLLM_QUERIES, **config.queries}
    for gauge, template in queries.items():
        if not template.strip():
            continue
        query = _GENERAL.sub(lambda found: config.selector if found[1] == "selector" else config.window, template)
        if _SINGLE.search(query):
            asked += [Question(gauge, _fill(query, endpoint), endpoint.id) for endpoint in endpoints]
        else:
            asked.append(Question(gauge, query))
    return asked


def _fill(query: str, endpoint: Endpoint) -> str:
    namespace, pod = _names(endpoint)
    model = endpoint.labels.get(MODEL_LABEL) or min(endpoint.metrics.models, default="")
    facts = {"pod": pod, "address": endpoint.address, "port": str(endpoint.port), "model": model}
    facts["namespace"] = namespace
    return _SINGLE.sub(lambda found: _escaped(facts[found[1]]), query)


def _escaped(text: str) -> str:
    """Safe between double quotes of PromQL; a model's name comes from the server, so it must not end the quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _names(endpoint: Endpoint) -> tuple[str, str]:
    """Namespace, and the pod without its rank."""
    namespace, _, name = endpoint.id.partition("/")
    return namespace, _RANK.sub("", name)


class Matcher:
    """Finds a sample's endpoint: by ``instance`` (ip:port), else by ``pod`` and ``namespace``."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._places: dict[str, EndpointId] = {}
        self._pods: dict[tuple[str, str], list[EndpointId]] = {}
        for endpoint in endpoints:
            self._places[endpoint.hostport] = endpoint.id
            namespace, pod = _names(endpoint)
            for key in {(namespace, pod), ("", pod), (namespace, endpoint.id.partition("/")[2])}:
                self._pods.setdefault(key, []).append(endpoint.id)

    def find(self, labels: Mapping[str, str]) -> EndpointId | None:
        """The endpoint; None when there is none, or several that could be meant."""
        instance = labels.get("instance", "")
        found = self._places.get(instance)
        if found is not None:
            return found
        candidates = self._pods.get((labels.get("namespace", ""), labels.get("pod", "")), [])
        # A pod with several target ports needs the instance: taking one for all would be worse than nothing.
        return candidates[0] if len(candidates) == 1 else None


def sort_answers(answers: Iterable[tuple[Question, Sequence[Sample]]], matcher: Matcher) -> dict[EndpointId, Values]:
    """Samples by endpoint. Of several series of one quantity the first counts: whoever writes a query sums it up."""
    sorted_: dict[EndpointId, Values] = {}
    for question, samples in answers:
        for sample in samples:
            endpoint = question.endpoint or matcher.find(sample.labels)
            if endpoint is not None and math.isfinite(sample.value) and sample.value >= 0:
                sorted_.setdefault(endpoint, {}).setdefault(question.gauge, sample)
    return sorted_


def sample_age(values: Values) -> float | None:
    """How old an endpoint's gauges were when Prometheus was asked, in seconds; None when there is nothing of use.

    Both times are of Prometheus's clock, so that clocks which differ do no harm.
    """
    gauges = [values[gauge] for gauge in ("waiting", "running") if gauge in values]
    if not gauges:
        return None
    stamp = values.get("sampledAt")
    return max(0.0, stamp.asked_at - stamp.value) if stamp is not None else None


def merged(old: EndpointMetrics, values: Values, updated: float, good_for: float) -> EndpointMetrics:
    """An endpoint's metrics with what Prometheus said; what it did not say stays."""

    def value(gauge: GaugeName, otherwise: float) -> float:
        return values[gauge].value if gauge in values else otherwise

    return replace(
        old,
        waiting=round(value("waiting", old.waiting)),
        running=round(value("running", old.running)),
        kv_usage=min(1.0, value("kvUsage", old.kv_usage)),
        ttft=_quantiles(values, "ttftP50", "ttftP95", "ttftCount"),
        itl=_quantiles(values, "itlP50", "itlP95", "itlCount"),
        source="promql",
        updated=updated,
        good_for=good_for,
    )


def _quantiles(values: Values, p50: GaugeName, p95: GaugeName, count: GaugeName) -> Quantiles | None:
    if p50 not in values or p95 not in values:
        return None
    return Quantiles(values[p50].value, values[p95].value, round(values[count].value) if count in values else 0)
