from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.builders import make_endpoints, make_handle, make_plugin, make_request, make_result

from pointsman.clock import ManualClock
from pointsman.errors import ConfigError
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, REMOTE_MATCHES, PrefixMatch, prefix_match_key
from pointsman.framework.kv import Held, RemoteMatch
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.remote_prefix_cache import RemotePrefixCacheProducer

PODS = make_endpoints(3)
IDS = tuple(range(100))
GUESS = PrefixMatch(64, 1, [1, 1, 0])


def held(**slots: Held) -> dict[Any, Held]:
    return {PODS[int(name[1:])].id: value for name, value in slots.items()}


def run(
    producer: RemotePrefixCacheProducer,
    answer: Mapping[Any, Held] | None,
    *,
    name: str = "remote-prefix-cache-producer",
    ids: tuple[int, ...] | None = IDS,
    pick: int | None = None,
) -> PrefixMatch:
    request = make_request(b"x" * 400, token_ids=ids)
    state = CycleState()
    if answer is not None:
        state.write(REMOTE_MATCHES, {name: RemoteMatch(answer)})
    state.write(prefix_match_key(APPROX_PREFIX_PRODUCER), GUESS)
    producer.produce(request, PODS, state)
    state.seal()
    if pick is not None:
        producer.picked(request, make_result(PODS[pick]), state)
    return state.read(prefix_match_key(producer.name))


def test_the_indexers_word_counts_where_it_is_sure() -> None:
    producer = make_plugin(RemotePrefixCacheProducer)
    found = run(producer, held(s0=Held(0, 16, 1.0), s1=Held(96, 16, 0.4), s2=Held(48, 16, 0.5)))
    assert [found.tokens(slot) for slot in range(3)] == [0, 64, 48]  # of the second one, the guess
    assert (found.block_tokens, found.total_blocks) == (16, 6)
    assert producer.stats() == {"exact": 1, "approximate": 1}


def test_different_block_sizes_are_told_in_one_and_never_rounded_up() -> None:
    producer = make_plugin(RemotePrefixCacheProducer)
    found = run(producer, held(s0=Held(96, 16, 1), s1=Held(64, 32, 1), s2=Held(72, 24, 1)))
    assert (found.block_tokens, [found.tokens(slot) for slot in range(3)]) == (8, [96, 64, 72])


def test_slower_tiers_are_worth_less_and_are_held_all_the_same() -> None:
    answer = held(s0=Held(96, 16, 1.0, (32, 16)), s1=Held(96, 16, 1.0))
    found = run(make_plugin(RemotePrefixCacheProducer), answer)
    assert (found.tokens(0), found.tokens(1)) == (96, 96)
    assert found.worth_of(0) == pytest.approx(3 + 2 * 0.8 + 0.5)
    assert found.worth_of(1) == 6
    assert found.slower == {0: (32, 16)}
    alike = [{"name": "cpu", "weight": 1.0}, {"name": "disk", "weight": 1.0}]
    found = run(make_plugin(RemotePrefixCacheProducer, kvCacheBackendConfigs=alike), answer)
    assert found.worth_of(0) == found.worth_of(1) == 6


@pytest.mark.parametrize(
    ("answer", "name", "why"),
    [
        (None, "", "no-answer"),
        (held(s0=Held(96, 16, 1.0)), "another", "no-answer"),
        ({}, "remote-prefix-cache-producer", "unsure"),
        (held(s0=Held(96, 16, 0.4)), "remote-prefix-cache-producer", "unsure"),
    ],
)
def test_else_it_is_the_approximate_match(answer: Mapping[Any, Held] | None, name: str, why: str) -> None:
    producer = make_plugin(RemotePrefixCacheProducer)
    assert run(producer, answer, name=name) is GUESS
    assert producer.stats() == {why: 1}


def test_a_pick_is_expected_to_be_held_until_the_indexer_should_know() -> None:
    clock = ManualClock(100.0)
    producer = make_plugin(RemotePrefixCacheProducer, make_handle(clock=clock), speculativeTTL="500ms")
    nothing = held(s0=Held(0, 16, 1.0), s1=Held(0, 32, 1.0), s2=Held(0, 16, 0.1))
    assert run(producer, nothing, pick=1).tokens(1) == 0
    assert [run(producer, nothing).tokens(slot) for slot in range(3)] == [0, 96, 0]
    assert [run(producer, nothing, ids=(7, *IDS[1:])).tokens(slot) for slot in range(3)] == [0, 0, 0]
    # What the indexer says counts when it is more, and endpoints it is not sure of go by the guess.
    more = held(s0=Held(16, 16, 1.0), s1=Held(32, 32, 1.0))
    assert [run(producer, more).tokens(slot) for slot in range(3)] == [16, 96, 0]
    clock.advance(0.6)
    assert run(producer, nothing).tokens(1) == 0
    run(producer, nothing, pick=0)
    producer.endpoint_removed(PODS[0])
    assert run(producer, nothing).tokens(0) == 0


@pytest.mark.parametrize(("ttl", "ids"), [("0s", IDS), ("2s", None)])
def test_nothing_is_expected_without_ids_or_when_not_wanted(ttl: str, ids: tuple[int, ...] | None) -> None:
    producer = make_plugin(RemotePrefixCacheProducer, speculativeTTL=ttl)
    nothing = held(s0=Held(0, 16, 1.0))
    run(producer, nothing, pick=0, ids=ids)
    assert run(producer, nothing, ids=ids).tokens(0) == 0


def test_needs_the_producer_of_the_guess() -> None:
    producer = make_plugin(RemotePrefixCacheProducer)
    assert [spec.type for spec in producer.requires()] == [APPROX_PREFIX_PRODUCER]
    named = make_plugin(RemotePrefixCacheProducer, prefixMatchInfoProducerName="mine")
    assert named.requires() == ()
    assert named.consumes() == (prefix_match_key("mine"),)


@pytest.mark.parametrize("url", ["", "kv-cache-indexer:9090", "ftp://x", "http://", "http://x:99999"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="cacheIndexerURL"):
        make_plugin(RemotePrefixCacheProducer, cacheIndexerURL=url)
