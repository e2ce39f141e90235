"""Paces of pods: who stands out, and by how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.endpoint import EndpointId
from pointsman.latency.paces import DEAD_BAND, MOST, Paces


def paces(ratios: dict[str, float], count: int = 20) -> Paces:
    made = Paces()
    for _ in range(count):
        for pod, ratio in ratios.items():
            made.add(EndpointId(pod), ratio)
    return made


def test_are_relative_to_the_median_pod() -> None:
    # all slower than the model says: that is the model's affair
    made = paces({"a": 3.0, "b": 3.0, "c": 6.0})
    assert made.slowness() == pytest.approx({"a": 1.0, "b": 1.0, "c": 2.0})
    assert made.outstanding() == pytest.approx({"c": 2.0})


def test_small_differences_are_none() -> None:
    assert paces({"a": 1.0, "b": 1.0, "c": DEAD_BAND - 0.01, "d": 1 / DEAD_BAND + 0.01}).outstanding() == {}


def test_a_pod_seen_a_few_times_is_not_judged() -> None:
    made = paces({"a": 1.0, "b": 1.0, "c": 1.0})
    for _ in range(4):
        made.add(EndpointId("new"), 3.0)
    assert EndpointId("new") not in made.slowness()


def test_a_pod_that_is_fast_again_is_believed() -> None:
    made = paces({"a": 1.0, "b": 1.0, "c": 3.0})
    for _ in range(20):
        made.add(EndpointId("c"), 1.0)
    assert made.outstanding() == {}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e300)), max_size=60))
def test_are_always_within_bounds(seen: list[tuple[str, float]]) -> None:
    made = Paces()
    for pod, ratio in seen:
        made.add(EndpointId(pod), ratio)
    assert all(1 / MOST <= pace <= MOST for pace in made.slowness().values())
