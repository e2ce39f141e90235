from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.builders import make_endpoint, make_endpoints, make_handle, make_plugin, make_request, make_state

from pointsman.api.endpoint import Endpoint
from pointsman.errors import AdmissionDeniedError
from pointsman.plugins.admitters.probabilistic import ProbabilisticAdmitter


def refusals(endpoints: Sequence[Endpoint], count: int = 1000, priority: int = -1, **parameters: Any) -> int:
    admitter = make_plugin(ProbabilisticAdmitter, make_handle(seed=7), **parameters)
    refused = 0
    for _ in range(count):
        try:
            admitter.admit(make_request(priority=priority), endpoints, make_state())
        except AdmissionDeniedError:
            refused += 1
    return refused


def test_others_are_never_refused() -> None:
    assert refusals(make_endpoints(2, waiting=100, kv_usage=1.0), priority=0) == 0
    assert refusals([]) == 0


@pytest.mark.parametrize(
    ("endpoints", "low", "high"),
    [
        (make_endpoints(3), 0, 0),
        # 1 of 5 waiting at one of two pods: s = 0.1, p = 300 · 0.1^5 = 0.003
        ([make_endpoint(0, waiting=1), make_endpoint(1, kv_usage=0.0)], 0, 12),
        # s = 0.2, p = 0.096
        (make_endpoints(2, waiting=1), 60, 135),
        # the greater of 0.2 and 0.24/0.8 = 0.3 counts: p = 0.729
        (make_endpoints(2, waiting=1, kv_usage=0.24), 680, 780),
        (make_endpoints(2, waiting=2), 1000, 1000),  # s = 0.4, p > 1
    ],
)
def test_the_curve(endpoints: list[Endpoint], low: int, high: int) -> None:
    assert low <= refusals(endpoints) <= high


def test_parameters() -> None:
    # s = 0.5: p = 0.5 · 0.5 = 0.25
    shares = refusals(make_endpoints(1, waiting=1), queueDepthThreshold=2, power=1, k=0.5)
    assert 200 <= shares <= 300


def test_silent_engines_refuse_nobody() -> None:
    stale = [make_endpoint(0, waiting=100, kv_usage=1.0, updated=1.0)]
    assert refusals(stale) == 0
