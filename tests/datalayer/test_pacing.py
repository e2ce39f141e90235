from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.datalayer.pacing import Budget, Rhythm, Seen, good_for, next_period, rhythm

PACE = rhythm(0.2)
MOVING = Seen(changed=True, busy=True)
STEADY, IDLE = Seen(busy=True), Seen()


def follow(start: float, *seen: Seen) -> list[float]:
    periods = [start]
    for one in seen:
        periods.append(next_period(PACE, periods[-1], one))
    return periods[1:]


def test_the_default_rhythm() -> None:
    assert Rhythm(moving=0.2, steady=1.0, idle=5.0, down=1.0) == PACE
    assert rhythm(10).idle == 10


@pytest.mark.parametrize(
    ("start", "seen", "periods"),
    [
        (5.0, [MOVING, MOVING], [0.2, 0.2]),
        (0.2, [STEADY] * 5, [0.3, 0.45, 0.675, 1.0, 1.0]),
        (0.2, [IDLE] * 6, [0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
        (5.0, [STEADY, IDLE], [1.0, 2.0]),
        (5.0, [Seen(changed=True)], [0.2]),
        (0.2, [Seen(failures=n) for n in range(1, 7)], [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        (5.0, [Seen(failures=1), Seen(failures=2)], [0.1, 0.2]),
        (0.1, [Seen(failures=10**9), IDLE], [1.0, 2.0]),
    ],
)
def test_periods(start: float, seen: list[Seen], periods: list[float]) -> None:
    assert follow(start, *seen) == pytest.approx(periods)


@given(
    st.floats(0.001, 60),
    st.lists(st.builds(Seen, failures=st.integers(0, 10**6), changed=st.booleans(), busy=st.booleans()), max_size=30),
)
def test_never_out_of_bounds(period: float, seen: list[Seen]) -> None:
    pace = rhythm(period)
    last = pace.moving
    for one in seen:
        last = next_period(pace, last, one)
        assert min(pace.moving / 2, pace.down) <= last <= max(pace.steady, pace.idle, pace.down)


def test_how_long_a_reading_is_good() -> None:
    assert good_for(0.2) == 2.0
    assert good_for(5.0) == 15.0


class TestBudget:
    def test_stretches_only_beyond_its_share(self) -> None:
        budget = Budget(0.05)
        for pod in range(10):
            budget.want(pod, 0.2)
        assert budget.stretch() == 1
        for pod in range(1000):
            budget.want(pod, 0.2)
        # 1,000 pods, five times a second, 0.3 ms each until measured: 1.5 cores are wanted.
        assert budget.wanted == pytest.approx(1.5)
        assert budget.stretch() == pytest.approx(30)
        for pod in range(1000):
            budget.want(pod, 5)
        assert budget.stretch() == pytest.approx(1.2)

    def test_learns_the_cost(self) -> None:
        budget = Budget(0.05)
        for _ in range(300):
            budget.spent(0.001)
        assert budget.cost == pytest.approx(0.001, rel=0.01)

    @given(st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 10) | st.none())))
    def test_what_is_gone_wants_nothing(self, changes: list[tuple[int, float | None]]) -> None:
        budget = Budget(0.05)
        for who, period in changes:
            if period is None:
                budget.drop(who)
            else:
                budget.want(who, period)
        for who in range(6):
            budget.drop(who)
        assert budget.wanted == 0
        assert budget.stretch() == 1
        assert math.isfinite(budget.cost)

    def test_refuses_nothing_at_all(self) -> None:
        with pytest.raises(ValueError, match="above 0"):
            Budget(0)
