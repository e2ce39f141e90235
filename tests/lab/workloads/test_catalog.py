"""What every workload promises, and each its own."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from random import Random

import pytest

from pointsman.errors import ConfigError
from pointsman.lab.options import FleetOptions
from pointsman.lab.requests import LabRequest
from pointsman.lab.runner import simulate
from pointsman.lab.workloads import WORKLOADS, make_workload
from pointsman.lab.workloads.arrivals import Stage, gamma, ladder
from pointsman.lab.workloads.brief import Brief
from pointsman.sim.tokens import answer_ids, answer_offset

FLEET = FleetOptions(pods=4, max_loras=16)


def requests(name: str, **options: float) -> list[LabRequest]:
    return list(make_workload(name, **options).requests())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_requests_come_in_order_with_names_of_their_own_the_same_each_time(name: str) -> None:
    workload = make_workload(name, qps=5.0, seed=3, scale=0.1)
    found = list(workload.requests())
    assert found
    assert [one.arrival for one in found] == sorted(one.arrival for one in found)
    assert len({one.id for one in found}) == len(found)
    assert all(one.tokens and one.max_tokens > 0 for one in found)
    assert found == list(workload.requests()) == requests(name, qps=5.0, seed=3, scale=0.1)
    other = requests(name, qps=5.0, seed=4, scale=0.1)
    assert [one.arrival for one in other] != [one.arrival for one in found]
    assert other[0].tokens[-64:] != found[0].tokens[-64:]


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_the_default_fleet_can_answer_all(name: str) -> None:
    result = simulate("default", make_workload(name, qps=4.0, scale=0.05), FLEET)
    assert {row.status for row in result.rows} == {200}
    assert not result.failures


@pytest.mark.parametrize("name", ["brief", "best-of-n", "long-mix", "lora", "bursty"])
def test_the_rate_is_the_one_asked_for(name: str) -> None:
    found = [one for one in requests(name, qps=12.0) if not one.warm_up]
    rate = len(found) / (found[-1].arrival - found[0].arrival)
    assert rate == pytest.approx(12.0, rel=0.25)


def test_brief_warms_up_and_then_asks() -> None:
    found = requests("brief", qps=20.0)
    warm = [one for one in found if one.warm_up]
    assert len(warm) == pytest.approx(900, rel=0.15)
    assert max(one.arrival for one in warm) < 60 <= min(one.arrival for one in found if not one.warm_up)
    assert found[-1].arrival < 210
    assert {len(one.tokens) for one in found} == {7200}
    assert len({one.tokens[:6000].tobytes() for one in found}) == 150
    assert len({one.tokens.tobytes() for one in found}) == 750


def test_brief_without_a_rate_climbs_a_ladder() -> None:
    workload = Brief(groups=2, variants=2, system=(100, 300), question=10, output=5)
    assert [stage.qps for stage in workload.stages][:4] == [15.0, 3, 10, 15]
    found = list(workload.requests())
    by_stage = Counter(int((one.arrival - 50) // 30) for one in found if not one.warm_up)
    assert by_stage[15] > 10 * by_stage[0]
    assert {len(one.tokens) for one in found} == {110, 310}


def test_a_chat_grows_by_its_answers() -> None:
    workload = make_workload("chat")
    seen = 0
    for first in itertools.islice(workload.requests(), 40):
        following = workload.follow(first, 100.0)
        if following is None:
            continue
        seen += 1
        past = first.tokens + answer_ids(answer_offset(first.tokens), 0, first.max_tokens)
        assert following.tokens[: len(past)] == past
        assert len(following.tokens) > len(past)
        assert following.session == first.session
        assert 100.0 < following.arrival <= 400.0
        assert following == workload.follow(first, 100.0)
    assert 20 < seen < 40


@pytest.mark.parametrize("name", ["chat", "agentic"])
def test_conversations_end_before_they_are_too_long(name: str) -> None:
    workload = make_workload(name)
    turns = []
    for request in itertools.islice(workload.requests(), 15):
        count, one = 1, request
        while (following := workload.follow(one, one.arrival + 1)) is not None:
            count, one = count + 1, following
            assert len(one.tokens) + one.max_tokens <= 40_000
        turns.append(count)
    assert len(set(turns)) > 3
    assert max(turns) > 5


def test_best_of_n_comes_at_once() -> None:
    bursts = itertools.groupby(requests("best-of-n", scale=0.3), key=lambda one: one.arrival)
    for _, burst in bursts:
        same = list(burst)
        assert len(same) == 8
        assert len({one.tokens.tobytes() for one in same}) == 1


def test_long_prompts_are_few_and_long() -> None:
    lengths = [len(one.tokens) for one in requests("long-mix", scale=3.0)]
    long = [length for length in lengths if length >= 16_000]
    assert len(long) / len(lengths) == pytest.approx(0.05, abs=0.02)
    assert statistics.median(lengths) < 600


def test_tenants_have_an_adapter_each_and_some_are_busy() -> None:
    found = requests("lora")
    counts = Counter(one.adapter for one in found).most_common()
    assert len(counts) == 16
    assert counts[0][0] == "tenant-0"
    assert counts[0][1] > 5 * counts[-1][1]
    starts = {(one.adapter, one.tokens[:1500].tobytes()) for one in found}
    assert len(starts) == 16


def test_gamma_gaps_have_the_spread_asked_for() -> None:
    times = list(gamma(10.0, 4.0, 5000.0, Random(1)))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == pytest.approx(50_000, rel=0.1)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(4.0, rel=0.1)


def test_a_ladder_keeps_to_its_stages() -> None:
    stages = [Stage(5.0, 100.0, warm_up=True), Stage(0.0, 50.0), Stage(20.0, 100.0)]
    found = list(ladder(stages, Random(2)))
    assert [at for at, _ in found] == sorted(at for at, _ in found)
    assert all(at < 100 if stage.warm_up else 150 <= at < 250 for at, stage in found)
    assert sum(not stage.warm_up for _, stage in found) == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("brief", {"qps": 0.0}, "qps: must be above 0"),
        ("chat", {"scale": -1.0}, "scale"),
        ("nothing", {}, "one of brief, chat"),
    ],
)
def test_what_cannot_be_made(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        requests(name, **options)
