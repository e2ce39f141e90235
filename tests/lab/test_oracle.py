"""The yardstick: no run is better than what is called achievable."""

from __future__ import annotations

import pytest
from tests.lab.lab_builders import ids, shared_prefixes

from pointsman.lab.options import Fault, FleetOptions
from pointsman.lab.oracle import Oracle, Visit, Watched, achievable, achievable_of_run, fleet_capacity
from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.lab.results import distribution
from pointsman.lab.runner import Run
from pointsman.sim.profiles import find_profile
from pointsman.sim.tokens import answer_ids, answer_offset

SMALL = FleetOptions(pods=4, profile=find_profile("qwen3-32b-2xh100", kv_tokens=3200))


def request(name: str, at: float, tokens: int, *, beginning: str = "", output: int = 4) -> LabRequest:
    shared = ids(beginning, 128) if beginning else ids(name, 0)
    return LabRequest(id=name, arrival=at, tokens=shared + ids(name, tokens), max_tokens=output)


def test_by_hand() -> None:
    requests = [
        request("a", 0.0, 50, beginning="x"),
        request("b", 1.0, 50, beginning="y"),
        request("c", 2.0, 50, beginning="x"),
    ]
    roomy, tight = achievable(requests, 1000), achievable(requests, 128)
    assert (roomy.requests, roomy.prompt_tokens) == (3, 3 * 178)
    assert roomy.lru_tokens == roomy.belady_tokens == roomy.unlimited_tokens == 128
    assert (tight.lru_tokens, tight.belady_tokens, tight.unlimited_tokens) == (0, 128, 128)
    assert roomy.ttft is None


def test_the_last_token_is_always_computed() -> None:
    same = [LabRequest(id=name, arrival=0.0, tokens=ids("same", 128), max_tokens=1) for name in "ab"]
    assert achievable(same, 1000).lru_tokens == 64
    longer = LabRequest(id="c", arrival=1.0, tokens=ids("same", 128) + ids("more", 10), max_tokens=1)
    assert achievable([same[0], longer], 1000).lru_tokens == 128


def test_adapters_and_salts_share_nothing() -> None:
    plain = {"arrival": 0.0, "tokens": ids("same", 200), "max_tokens": 1}
    requests = [
        LabRequest(id="a", **plain),  # type: ignore[arg-type]
        LabRequest(id="b", adapter="sql", **plain),  # type: ignore[arg-type]
        LabRequest(id="c", salt="s", **plain),  # type: ignore[arg-type]
    ]
    assert achievable(requests, 10_000).unlimited_tokens == 0


def test_a_warm_up_fills_the_cache_and_is_not_counted() -> None:
    warm = LabRequest(id="w", arrival=0.0, tokens=ids("x", 200), max_tokens=1, warm_up=True)
    asked = LabRequest(id="a", arrival=1.0, tokens=ids("x", 200), max_tokens=1)
    best = achievable([warm, asked], 10_000, fleet=SMALL)
    assert (best.requests, best.prompt_tokens, best.lru_tokens) == (1, 200, 192)
    assert best.ttft is not None


def test_an_answer_that_is_repeated_counts_and_others_take_no_room() -> None:
    first = LabRequest(id="a", arrival=0.0, tokens=ids("x", 100), max_tokens=300)
    said = first.tokens.__class__("I", answer_ids(answer_offset(first.tokens), 0, 300))
    again = LabRequest(id="b", arrival=1.0, tokens=first.tokens + said + ids("y", 10), max_tokens=300)
    # All but the answer's last token is in the cache: 399 tokens, 24 blocks of 16.
    assert achievable([first, again], 1000, block=16).lru_tokens == 384
    other = LabRequest(id="b", arrival=1.0, tokens=ids("x", 100) + ids("y", 10), max_tokens=300)
    assert achievable([first, other], 112, block=16).lru_tokens == 96


@pytest.mark.parametrize("policy", ["round-robin", "default", "precise", "llm-d"])
@pytest.mark.parametrize("options", [FleetOptions(pods=4), SMALL])
@pytest.mark.parametrize("qps", [2.0, 40.0])
def test_no_policy_beats_what_is_achievable(policy: str, options: FleetOptions, qps: float) -> None:
    oracle = Oracle(options.profile.block_size)
    result = Run(policy, Watched(shared_prefixes(qps=qps), oracle), options).run()
    best = achievable_of_run(oracle, result.rows, options)
    assert sum(row.cached_tokens for row in result.rows) <= best.belady_tokens
    assert best.ttft is not None
    times = distribution([row.ttft_ms for row in result.rows])
    assert (times["mean"] or 0) >= best.ttft.mean_ms - 1e-6
    for name, bound in best.ttft.alone_ms.items():
        assert (times[name] or 0) >= (bound or 0) - 1e-6  # equal but for rounding where nothing waits


def test_a_closed_loop_is_judged_in_the_order_it_had() -> None:
    class Chat(FixedWorkload):
        def follow(self, done: LabRequest, now: float) -> LabRequest | None:
            if len(done.tokens) > 700:
                return None
            said = ids("", 0).__class__("I", answer_ids(answer_offset(done.tokens), 0, done.max_tokens))
            return LabRequest(
                id=f"{done.id}+", arrival=now + 1.0, tokens=done.tokens + said + ids(done.id, 60), max_tokens=100
            )

    starts = [
        LabRequest(id=name, arrival=at, tokens=ids(name, 200), max_tokens=100) for name, at in (("a", 0.0), ("b", 0.1))
    ]
    options = FleetOptions(pods=2)
    oracle = Oracle(16)
    result = Run("precise", Watched(Chat("chat", starts), oracle), options).run()
    best = achievable_of_run(oracle, result.rows, options)
    hits = sum(row.cached_tokens for row in result.rows)
    assert best.requests == len(result.rows) > 6
    assert hits == best.lru_tokens > 0.7 * best.prompt_tokens - 400


def test_judging_twice_gives_the_same() -> None:
    oracle = Oracle(16)
    requests = list(shared_prefixes().requests())
    for one in requests:
        oracle.add(one)
    visits = [Visit(one.id, one.arrival) for one in requests]
    assert oracle.judge(visits, 5000, SMALL) == oracle.judge(visits, 5000, SMALL)
    assert oracle.judge([], 5000, SMALL).rate(0) == 0.0


def test_capacity_counts_added_pods_and_second_tiers() -> None:
    profile = find_profile("qwen3-32b-2xh100", kv_tokens=3200)
    assert fleet_capacity(FleetOptions(pods=3, profile=profile)) == 9600
    assert fleet_capacity(FleetOptions(pods=3, profile=profile, faults=(Fault(at=1.0, kind="add"),))) == 12_800
