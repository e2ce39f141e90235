"""Two factors learnt from noisy, sometimes wrong measurements."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.latency.scales import LEAST, MOST, Scales


def teach(scales: Scales, first: float, second: float, count: int, *, noise: float = 0.0, seed: int = 1) -> None:
    """Measurements of an engine with these factors; relative noise is normal."""
    rng = Random(seed)
    for _ in range(count):
        share = rng.random()
        x1, x2 = share, 1 - share
        scales.learn(x1, x2, (first * x1 + second * x2) * (1 + rng.gauss(0, noise)))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (3, 3), (1 / 3, 1 / 3), (3, 1), (0.5, 2), (9, 9), (0.12, 0.12)])
def test_both_factors_are_found(first: float, second: float) -> None:
    scales = Scales()
    teach(scales, first, second, 300, noise=0.1)
    assert scales.first == pytest.approx(first, rel=0.1)
    assert scales.second == pytest.approx(second, rel=0.1)


def test_a_few_measurements_are_enough_for_what_both_have_in_common() -> None:
    scales = Scales()
    for _ in range(10):
        scales.learn(0.1, 0.9, 3.0)
    assert scales.second == pytest.approx(3.0, rel=0.1)
    assert scales.first == pytest.approx(3.0, rel=0.25)  # hardly measured, carried along


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_outliers_change_little(share: float) -> None:
    scales, rng = Scales(2.0), Random(7)
    for _ in range(1000):
        x1 = rng.random()
        y = 2.0 * rng.gauss(1, 0.05)
        scales.learn(x1, 1 - x1, y * rng.uniform(3, 30) if rng.random() < share else y)
    assert (scales.first + scales.second) / 2 == pytest.approx(2.0, rel=0.1)


def test_too_long_is_believed_less_than_too_short() -> None:
    even, wary = Scales(), Scales(2.0)
    for scales in (even, wary):
        rng = Random(3)
        for _ in range(1000):
            scales.learn(0.5, 0.5, 1.0 + rng.expovariate(2.0))
    assert 1.0 < wary.second < even.second < 1.5


def test_drift_is_noticed_and_followed_quickly() -> None:
    scales = Scales()
    teach(scales, 1, 1, 2000, noise=0.1)
    assert scales.drifts <= 1  # a false alarm now and then does no harm
    before = scales.drifts
    teach(scales, 2, 2, 30, noise=0.1, seed=2)
    assert scales.drifts > before
    assert (scales.first + scales.second) / 2 == pytest.approx(2.0, rel=0.15)


def test_noise_is_measured() -> None:
    scales = Scales()
    teach(scales, 2, 2, 1000, noise=0.2)
    assert scales.spread == pytest.approx(2 * 0.2 * 0.6745, rel=0.3)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
MEASURED = st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(-1e12, 1e12), st.floats(0.1, 10))


@given(st.lists(MEASURED, max_size=80), st.sampled_from([1.0, 2.0]))
def test_whatever_is_measured_the_factors_stay_in_bounds(measured: list[tuple[float, ...]], too_long: float) -> None:
    scales = Scales(too_long)
    for x1, x2, y, error_scale in measured:
        scales.learn(x1, x2, y, error_scale=error_scale)
        assert LEAST <= scales.first <= MOST
        assert LEAST <= scales.second <= MOST
        assert 0 < scales.spread < math.inf


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=30))
def test_nonsense_does_not_get_in(measured: list[tuple[float, ...]]) -> None:
    scales = Scales()
    for x1, x2, y in measured:
        scales.learn(x1, x2, y)
        assert LEAST <= scales.first <= MOST
        assert LEAST <= scales.second <= MOST
        assert 0 < scales.spread < math.inf
