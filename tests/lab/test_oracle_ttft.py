"""Lower bounds on the time to first token."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.lab.options import Fault, FleetOptions
from pointsman.lab.oracle_ttft import PrefillJob, alone_ms, least_prefill_ms, srpt_mean, ttft_bound
from pointsman.sim.profiles import find_profile

PROFILE = find_profile("qwen3-32b-2xh100")


def test_the_short_one_overtakes_and_what_is_left_counts() -> None:
    # 0-1: A (4 left); 1-2: B done; 2-6: A done. Two seconds of work at speed 2 take one.
    assert srpt_mean([(0.0, 5.0), (1.0, 1.0)], 1.0) == pytest.approx((6.0 + 1.0) / 2)
    assert srpt_mean([(0.0, 2.0)], 2.0) == pytest.approx(1.0)
    assert srpt_mean([(0.0, 1.0), (10.0, 1.0)], 1.0) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=5))
def test_no_order_on_two_pods_is_better(jobs: list[tuple[int, int]]) -> None:
    jobs.sort()
    bound = srpt_mean([(float(at), float(work)) for at, work in jobs], 2.0)
    for order in itertools.permutations(jobs):
        free = [0.0, 0.0]
        flow = 0.0
        for at, work in order:
            free.sort()
            free[0] = max(free[0], at) + work
            flow += free[0] - at
        assert bound <= flow / len(jobs) + 1e-9


def test_alone_by_hand() -> None:
    # 1000 tokens behind nothing: 47.5 + 0.87 ms, and 8 of the step; in a decode step 14.1753 + 0.875 * 48.37.
    cost = least_prefill_ms(PROFILE, 1000, 0)
    assert cost == pytest.approx(48.37)
    assert alone_ms(PROFILE, cost) == pytest.approx(min(56.37, 14.1753 + 0.875 * 48.37), abs=0.01)
    assert alone_ms(PROFILE, 0.1) == PROFILE.step_floor


def test_chunks_cost_no_less_than_the_bound_says() -> None:
    whole = least_prefill_ms(PROFILE, 10_000, 500)
    for size in (100, 1024, 8192):
        done, cost = 500, 0.0
        while done < 10_500:
            chunk = min(size, 10_500 - done)
            cost += PROFILE.chunk_ms(chunk, done)
            done += chunk
        assert cost >= whole - 1e-6


def test_the_bound_of_a_burst_by_hand() -> None:
    options = FleetOptions(pods=2, network=0.0)
    burst = [PrefillJob(0.0, 8000, 0)] * 8
    bound = ttft_bound(burst, options)
    assert bound is not None
    work = 0.875 * least_prefill_ms(PROFILE, 8000, 0)
    assert bound.pooled_ms == pytest.approx(work / 2 * (1 + 8) / 2)
    assert bound.mean_ms == bound.pooled_ms > bound.alone_ms["p99"]  # type: ignore[operator]


def test_faster_and_added_pods_lower_it() -> None:
    burst = [PrefillJob(0.0, 8000, 0)] * 8
    plain, fast, grown = (
        ttft_bound(burst, options)
        for options in (
            FleetOptions(pods=2),
            FleetOptions(pods=2, speeds=(0.25,)),
            FleetOptions(pods=2, faults=(Fault(at=9.0, kind="add"),)),
        )
    )
    assert plain is not None
    assert fast is not None
    assert grown is not None
    assert fast.mean_ms < grown.mean_ms < plain.mean_ms
    assert msgspec.to_builtins(plain)["alone_ms"].keys() == {"mean", "p50", "p90", "p95", "p99"}


def test_nothing_has_no_bound() -> None:
    assert ttft_bound([], FleetOptions()) is None
