"""Power of two, CHWBL, SGLang's cache_aware, Preble's E2 and session pinning on cases worked out by hand."""

from __future__ import annotations

from array import array
from collections import Counter
from random import Random
from typing import Any

import pytest
from tests.builders import (
    make_candidates,
    make_endpoints,
    make_handle,
    make_outcome,
    make_plugin,
    make_request,
    make_result,
    make_state,
)

from pointsman.api.endpoint import Endpoint, InflightLoad
from pointsman.api.request import InferenceRequest
from pointsman.api.result import Usage
from pointsman.clock import ManualClock
from pointsman.framework.keys import PrefixMatch
from pointsman.framework.plugin import Handle
from pointsman.framework.state import CycleState
from pointsman.lab.rivals.chwbl import Chwbl
from pointsman.lab.rivals.power_of_two import PowerOfTwo
from pointsman.lab.rivals.preble import PrebleE2
from pointsman.lab.rivals.session_pin import SessionPin
from pointsman.lab.rivals.sglang import CacheAware

EMPTY = CycleState()


def loaded(*requests: int, **fields: Any) -> Handle:
    """So many requests in flight at slots 0, 1, ..."""
    return make_handle({slot: InflightLoad(requests=count) for slot, count in enumerate(requests)}, **fields)


def first(picker: Any, request: InferenceRequest, count: int, state: CycleState = EMPTY) -> int:
    """The slot picked among ``count`` candidates of equal score."""
    chosen = picker.pick(request, make_candidates(*[0.0] * count), state)
    slots: list[int] = [candidate.endpoint.slot for candidate in chosen]
    assert sorted(slots) == list(range(count))
    return slots[0]


# -- power of two ---------------------------------------------------------------------------------------------------


def test_of_two_the_one_with_fewer_requests() -> None:
    plugin = make_plugin(PowerOfTwo, loaded(5, 3))
    assert {first(plugin, make_request(), 2) for _ in range(20)} == {1}


def test_of_three_the_fullest_is_never_taken_and_the_emptiest_in_two_pairs_of_three() -> None:
    plugin = make_plugin(PowerOfTwo, loaded(5, 1, 3))
    counts = Counter(first(plugin, make_request(), 3) for _ in range(3000))
    assert counts[0] == 0
    assert counts[1] == pytest.approx(2000, abs=150)


def test_power_of_two_with_one_and_with_none() -> None:
    plugin = make_plugin(PowerOfTwo, loaded(5))
    assert first(plugin, make_request(), 1) == 0
    assert plugin.pick(make_request(), [], EMPTY) == []


# -- CHWBL ----------------------------------------------------------------------------------------------------------


def home(request: InferenceRequest, count: int = 4) -> int:
    return first(make_plugin(Chwbl, loaded(*[0] * count)), request, count)


def with_load(slot: int, own: int, others: int) -> Handle:
    return loaded(*[own if other == slot else others for other in range(4)])


def test_an_endpoint_takes_what_fits_under_a_quarter_above_the_mean() -> None:
    request = make_request("some prompt")
    slot = home(request)
    # 3, 2, 2, 2 in flight: bound (9 + 1) / 4 * 1.25 = 3.125, and 3 + 1 is more, 2 + 1 is not
    assert first(make_plugin(Chwbl, with_load(slot, 3, 2)), request, 4) != slot
    # 2, 3, 3, 3: bound (11 + 1) / 4 * 1.25 = 3.75
    assert first(make_plugin(Chwbl, with_load(slot, 2, 3)), request, 4) == slot
    # 1, 1, 1, 1: bound 1.5625, none fits: the first on the ring
    assert first(make_plugin(Chwbl, with_load(slot, 1, 1)), request, 4) == slot


def test_the_first_hundred_characters_decide() -> None:
    rng = Random(3)
    prompts = ["".join(rng.choices("abcdef", k=100)) for _ in range(40)]
    assert all(home(make_request(p + "x" * 50)) == home(make_request(p + "y" * 500)) for p in prompts)
    assert len({home(make_request(p)) for p in prompts}) == 4
    assert len({home(make_request(prompts[0], target_model=f"adapter-{n}")) for n in range(20)}) == 4


def test_prompts_of_ids_alone_go_by_their_first_25() -> None:
    def asked(*ids: int) -> int:
        return home(make_request(token_ids=array("I", ids), prompt_tokens=len(ids)))

    assert asked(*range(25), 1, 2) == asked(*range(25), 3, 4)
    assert len({asked(n, *range(30)) for n in range(20)}) == 4


def test_a_pod_that_goes_moves_only_its_own_prompts() -> None:
    plugin = make_plugin(Chwbl, loaded(0, 0, 0, 0))
    requests = [make_request(f"prompt {n}") for n in range(100)]
    before = [first(plugin, request, 4) for request in requests]
    after = [first(plugin, request, 3) for request in requests]
    assert all(old in (new, 3) for old, new in zip(before, after, strict=True))
    assert set(after) == {0, 1, 2}


# -- SGLang's cache_aware -------------------------------------------------------------------------------------------


def matched(*blocks: int) -> CycleState:
    """So many of ten blocks of 16 tokens by slot."""
    return make_state(PrefixMatch(16, 10, blocks))


PROMPT = make_request(prompt_tokens=160)


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [((65, 1), 0), ((66, 1), 1), ((195, 130), 0), ((196, 130), 1), ((200, 135), 0)],
    ids=["64 apart", "65 apart", "1.5 times", "more than 1.5 times", "65 apart but not 1.5 times"],
)
def test_affinity_until_the_fleet_is_out_of_balance(loads: tuple[int, int], chosen: int) -> None:
    assert first(make_plugin(CacheAware, loaded(*loads)), PROMPT, 2, matched(10, 0)) == chosen


def test_a_match_counts_above_three_tenths_else_the_smallest_tree() -> None:
    plugin = make_plugin(CacheAware, loaded(0, 0, 0))
    pods = make_endpoints(3)
    assert first(plugin, PROMPT, 3, matched(0, 4, 3)) == 1
    plugin.picked(PROMPT, make_result(pods[0]), matched(0, 0, 0))  # 160 tokens
    plugin.picked(PROMPT, make_result(pods[1]), matched(0, 9, 0))  # 16 more than it had
    plugin.picked(PROMPT, make_result(pods[2]), matched(0, 0, 5))  # 80
    assert first(plugin, PROMPT, 3, matched(3, 0, 0)) == 1
    plugin.endpoint_removed(pods[2])
    assert first(plugin, PROMPT, 3, matched(3, 0, 0)) == 2


def test_of_equal_matches_any() -> None:
    plugin = make_plugin(CacheAware, loaded(0, 0, 0))
    assert {first(plugin, PROMPT, 3, matched(8, 8, 0)) for _ in range(40)} == {0, 1}


# -- Preble's E2 ----------------------------------------------------------------------------------------------------


class OneMsPerToken:
    """A latency model for sums by heart."""

    def prefill_ms(self, new_tokens: float, cached_tokens: float) -> float:
        return new_tokens

    def decode_step_ms(self, requests: float, context_tokens: float) -> float:
        return 1.0


class Preble:
    """The picker, three pods, prompts of 160 tokens."""

    def __init__(self, *requests: int) -> None:
        self.clock = ManualClock(1000.0)
        handle = loaded(*requests, clock=self.clock, cost=OneMsPerToken())
        self.plugin = make_plugin(PrebleE2, handle)
        self.pods: list[Endpoint] = make_endpoints(3)

    def send(self, slot: int, *cached: int) -> None:
        self.plugin.picked(PROMPT, make_result(self.pods[slot]), matched(*cached))

    def chosen(self, *cached: int) -> int:
        return first(self.plugin, PROMPT, 3, matched(*cached))


def test_more_than_half_cached_is_exploited_whatever_the_load() -> None:
    preble = Preble(9, 9, 0)
    assert preble.chosen(6, 0, 0) == 0
    assert preble.chosen(5, 0, 0) == 2  # just half: explore


def test_of_several_best_matches_the_one_with_less_work() -> None:
    preble = Preble()
    preble.send(0)
    assert preble.chosen(8, 8, 0) == 1


def test_load_is_prefill_of_the_last_three_minutes() -> None:
    preble = Preble()
    preble.send(0, 0)  # 160 ms
    preble.clock.advance(100.0)
    preble.send(1, 0, 5)  # 80 ms
    preble.send(2, 0, 0, 2)  # 128 ms
    assert preble.chosen(0, 0, 0) == 1
    assert preble.chosen(0, 0, 4) == 2  # 128 + 96 against 80 + 160
    preble.clock.advance(81.0)
    assert preble.chosen(0, 0, 0) == 0
    preble.plugin.endpoint_removed(preble.pods[1])
    preble.send(0)
    assert preble.chosen(0, 0, 0) == 1


def test_a_request_in_flight_costs_the_output_that_is_expected_of_it() -> None:
    preble = Preble(1, 0, 0)
    for _ in range(42):
        preble.send(1)
        preble.send(2)  # 42 * 160 = 6,720 ms against 45 tokens at 150 ms
    assert preble.chosen(0, 0, 0) == 1
    preble.send(1)
    preble.send(2)
    assert preble.chosen(0, 0, 0) == 0
    for tokens in (90, 110):  # 100 tokens on average
        usage = Usage(output_tokens=tokens)
        outcome = make_outcome(preble.pods[0], PROMPT, ttft_ms=0.0, total_ms=(tokens - 1) * 70.0, usage=usage)
        preble.plugin.ended(outcome)
    assert preble.chosen(0, 0, 0) == 1  # 7,000 ms against 6,880


# -- session pinning ------------------------------------------------------------------------------------------------


def test_a_session_is_pinned_until_it_expires_or_its_pod_goes() -> None:
    clock = ManualClock(0.0)
    plugin = make_plugin(SessionPin, make_handle(clock=clock), header="X-Chat", ttlSeconds=300)
    pods = make_endpoints(3)
    asked = make_request(headers={"x-chat": "one"})

    def kept(request: InferenceRequest, among: list[Endpoint] = pods) -> list[int]:
        return [endpoint.slot for endpoint in plugin.filter(request, among, EMPTY)]

    assert kept(asked) == [0, 1, 2]
    plugin.picked(asked, make_result(pods[1]), EMPTY)
    assert kept(asked) == [1]
    assert kept(make_request(headers={"x-chat": "two"})) == [0, 1, 2]
    assert kept(make_request()) == [0, 1, 2]
    assert kept(asked, [pods[0], pods[2]]) == [0, 2]
    clock.advance(299.0)
    plugin.picked(asked, make_result(pods[1]), EMPTY)
    clock.advance(300.0)
    assert kept(asked) == [1]
    clock.advance(1.0)
    assert kept(asked) == [0, 1, 2]


def test_expired_sessions_take_no_memory() -> None:
    clock = ManualClock(0.0)
    plugin = make_plugin(SessionPin, make_handle(clock=clock), ttlSeconds=10)
    pod = make_endpoints(1)[0]
    for number in range(100):
        plugin.picked(make_request(headers={"x-session-id": f"s{number}"}), make_result(pod), EMPTY)
        clock.advance(1.0)
    assert plugin.sessions == 11
