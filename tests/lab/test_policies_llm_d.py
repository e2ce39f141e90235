"""llm-d's rivals on cases worked out by hand from its documented formulas."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    make_candidates,
    make_endpoint,
    make_endpoints,
    make_handle,
    make_outcome,
    make_plugin,
    make_request,
    make_result,
)

from pointsman.api.endpoint import Growth
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.lab.rivals.random_ties import RandomTies
from pointsman.lab.rivals.scraped_gauges import ScrapedKv, ScrapedQueue
from pointsman.lab.rivals.sticky_until_saturated import StickyFilter, TokenLoad, TokenLoadProducer

PODS = make_endpoints(3)


def test_gauges_count_as_they_were_read() -> None:
    endpoints = [make_endpoint(slot, waiting=waiting, kv_usage=0.25 * slot) for slot, waiting in enumerate((0, 4, 1))]
    handle = make_handle(growths={0: Growth(pending=9, tokens=90_000)})
    state = CycleState()
    assert make_plugin(ScrapedQueue, handle).score(make_request(), endpoints, state) == [1.0, 0.0, 0.75]
    assert make_plugin(ScrapedKv, handle).score(make_request(), endpoints, state) == [1.0, 0.75, 0.5]
    alike = make_endpoints(2, waiting=3)
    assert make_plugin(ScrapedQueue, handle).score(make_request(), alike, state) == [1.0, 1.0]


def test_equals_are_taken_at_random_and_the_rest_follows_by_score() -> None:
    candidates = make_candidates(0.5, 0.9, 0.9, 0.7)
    plugin = make_plugin(RandomTies)
    orders = {tuple(c.endpoint.slot for c in plugin.pick(make_request(), candidates, CycleState())) for _ in range(64)}
    assert orders == {(1, 2, 3, 0), (2, 1, 3, 0)}
    assert plugin.pick(make_request(), [], CycleState()) == []


class Sticky:
    """Producer, filter and scorer over one request after another."""

    def __init__(self, **parameters: Any) -> None:
        self.producer = make_plugin(TokenLoadProducer)
        self.filter = make_plugin(StickyFilter, **parameters)
        self.scorer = make_plugin(TokenLoad)

    def state(self, request: InferenceRequest, *cached: int) -> CycleState:
        found = CycleState()
        found.write(prefix_match_key(APPROX_PREFIX_PRODUCER), PrefixMatch(100, request.prompt_tokens // 100, cached))
        self.producer.produce(request, PODS, found)
        return found

    def send(self, name: str, tokens: int, slot: int, *cached: int) -> InferenceRequest:
        request = make_request(id=name, prompt_tokens=tokens)
        self.producer.picked(request, make_result(PODS[slot]), self.state(request, *cached))
        return request

    def kept(self, *cached: int) -> list[int]:
        request = make_request(id="asked", prompt_tokens=1000)
        return [endpoint.slot for endpoint in self.filter.filter(request, PODS, self.state(request, *cached))]


def test_pods_with_four_fifths_of_the_prompt_are_sticky() -> None:
    sticky = Sticky()
    assert sticky.kept(8, 7, 0) == [0]
    assert sticky.kept(8, 9, 0) == [0, 1]
    assert sticky.kept(7, 7, 0) == [0, 1, 2]
    assert sticky.kept(10, 9, 8) == [0, 1, 2]


def test_not_beyond_eighteen_seconds_of_prefill_more_than_the_best_other() -> None:
    sticky = Sticky()
    sticky.send("a", 286_704, 0)  # 18.0 s at 15,928 tokens/s
    assert sticky.kept(8, 0, 0) == [0]
    sticky.send("b", 1000, 0, 9)  # 100 uncached tokens more: 18.006 s
    assert sticky.kept(8, 0, 0) == [0, 1, 2]
    sticky.send("c", 1000, 1)
    sticky.send("d", 1000, 2)  # now the best other waits, too
    assert sticky.kept(8, 0, 0) == [0]


def test_zero_penalty_always_sticks() -> None:
    sticky = Sticky(maxTtftPenaltyMs=0)
    sticky.send("a", 10_000_000, 0)
    assert sticky.kept(8, 0, 0) == [0]


def test_tokens_count_from_the_pick_to_the_first_token_or_the_end() -> None:
    sticky = Sticky(maxTtftPenaltyMs=1)
    first = sticky.send("a", 1000, 0)
    second = sticky.send("b", 1000, 0)
    assert sticky.kept(8, 0, 0) == [0, 1, 2]
    sticky.producer.first_token(first)
    assert sticky.kept(8, 0, 0) == [0, 1, 2]
    sticky.producer.ended(make_outcome(PODS[0], second))
    assert sticky.kept(8, 0, 0) == [0]


def test_an_endpoint_that_is_gone_is_forgotten() -> None:
    sticky = Sticky(maxTtftPenaltyMs=1)
    sticky.send("a", 1000, 0)
    sticky.producer.endpoint_removed(PODS[0])
    assert sticky.kept(8, 0, 0) == [0]


def test_load_is_tokens_in_flight_and_those_of_the_request_that_are_not_cached() -> None:
    sticky = Sticky()
    sticky.send("a", 1_048_576, 0)
    sticky.send("b", 4_194_304, 2)
    request = make_request(id="asked", prompt_tokens=1000)
    scores = sticky.scorer.score(request, PODS, sticky.state(request, 10, 5, 0))
    assert scores == pytest.approx([0.75, 1 - 500 / 4_194_304, 0.0])
