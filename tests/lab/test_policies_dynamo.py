"""Dynamo's cost and the product form on cases worked out by hand from the documented formula."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import make_endpoints, make_outcome, make_plugin, make_request, make_result

from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import PRECISE_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.kv import KvMatch
from pointsman.framework.state import CycleState, StateKey
from pointsman.lab.rivals._bookkeeping import ActiveBlocks, TokensUntilFirst
from pointsman.lab.rivals.dynamo import DynamoCost

HERE, THERE = make_endpoints(2)
APPROX_KEYS: StateKey[list[int]] = StateKey("prefix-block-keys/approx-prefix-cache-producer")
EXACT: StateKey[KvMatch] = StateKey("kv-match/precise-prefix-cache-producer")


def prompt(name: str) -> InferenceRequest:
    """160 tokens: ten blocks of 16."""
    return make_request(id=name, prompt_tokens=160)


def state(keys: list[int], *cached: int) -> CycleState:
    """What is found of a prompt: its block keys, and blocks cached by slot."""
    found = CycleState()
    found.write(prefix_match_key(PRECISE_PREFIX_PRODUCER), PrefixMatch(16, len(keys), cached))
    found.write(EXACT, KvMatch({}, {16: keys}))
    return found


FIRST = list(range(10))
SECOND = [*range(5), *range(100, 105)]
"""Shares five blocks with FIRST."""


def costs(plugin: DynamoCost, name: str, found: CycleState) -> list[float]:
    return [1 / score - 1 for score in plugin.score(prompt(name), [HERE, THERE], found)]


def test_an_idle_fleet_costs_what_is_not_cached_and_the_prompt_itself() -> None:
    # here: 10 - 4 to prefill + 10 held; there: 10 + 10
    assert costs(make_plugin(DynamoCost), "a", state(FIRST, 4, 0)) == pytest.approx([16, 20])


def busy(**parameters: Any) -> DynamoCost:
    """A request of 10 blocks, 4 of them cached, went here: 96 tokens to prefill, 10 blocks active."""
    plugin = make_plugin(DynamoCost, **parameters)
    plugin.picked(prompt("a"), make_result(HERE), state(FIRST, 4, 0))
    return plugin


def test_prefill_counts_until_the_first_token_and_blocks_until_the_end() -> None:
    plugin = busy()
    # here: (96 + 160) / 16 to prefill, 10 + 5 blocks as five are shared
    assert costs(plugin, "b", state(SECOND, 0, 0)) == pytest.approx([16 + 15, 10 + 10])
    plugin.first_token(prompt("a"))
    assert costs(plugin, "b", state(SECOND, 0, 0)) == pytest.approx([10 + 15, 10 + 10])
    plugin.ended(make_outcome(HERE, prompt("a")))
    assert costs(plugin, "b", state(SECOND, 0, 0)) == pytest.approx([10 + 10, 10 + 10])


def test_a_request_without_first_token_leaves_nothing_behind() -> None:
    plugin = busy()
    plugin.ended(make_outcome(HERE, prompt("a"), cause="upstream-reset"))
    assert costs(plugin, "b", state(SECOND, 0, 0)) == pytest.approx([20, 20])


def test_the_scale_weighs_prefill_alone_and_the_credit_blocks_cached() -> None:
    assert costs(busy(prefillLoadScale=4), "b", state(SECOND, 5, 0)) == pytest.approx([4 * 11 + 15, 4 * 10 + 10])
    assert costs(busy(overlapScoreCredit=0.5), "b", state(SECOND, 4, 0)) == pytest.approx([14 + 15, 10 + 10])


def test_the_product() -> None:
    assert costs(busy(selectionPolicy="lmetric"), "b", state(SECOND, 5, 0)) == pytest.approx([11 * 16, 10 * 11])
    # all is cached, nothing is ahead: 0 whatever is decoding
    idle = make_plugin(DynamoCost, selectionPolicy="lmetric")
    assert costs(idle, "b", state(SECOND, 10, 0)) == pytest.approx([0, 110])


def test_more_cached_than_there_is_to_do_costs_no_less_than_nothing() -> None:
    assert costs(make_plugin(DynamoCost, overlapScoreCredit=2), "a", state(FIRST, 8, 0)) == pytest.approx([10, 20])


def test_without_exact_keys_those_of_the_approximate_match_count() -> None:
    found = CycleState()
    found.write(prefix_match_key(PRECISE_PREFIX_PRODUCER), PrefixMatch(64, 2, (1,)))
    found.write(APPROX_KEYS, [1, 2])
    # 160 tokens are 2.5 blocks of 64, of which two are full
    assert costs(make_plugin(DynamoCost), "a", found) == pytest.approx([1.5 + 2, 2.5 + 2])


def test_an_endpoint_that_is_gone_is_forgotten() -> None:
    plugin = busy()
    plugin.endpoint_removed(HERE)
    assert costs(plugin, "b", state(SECOND, 0, 0)) == pytest.approx([20, 20])
    plugin.first_token(prompt("a"))
    plugin.ended(make_outcome(HERE, prompt("a")))
    assert costs(plugin, "b", state(SECOND, 0, 0)) == pytest.approx([20, 20])


def test_two_requests_of_one_name_are_counted_once_and_taken_off_once() -> None:
    tokens, blocks = TokensUntilFirst(), ActiveBlocks()
    for _ in range(2):
        tokens.enter("same", HERE.id, 100)
        blocks.enter("same", HERE.id, FIRST)
    assert tokens.of(HERE.id) == 100
    assert blocks.with_prompt(HERE.id, []) == 10
    for _ in range(2):
        tokens.leave("same")
        blocks.leave("same")
    assert tokens.of(HERE.id) == 0
    assert blocks.with_prompt(HERE.id, []) == 0


def test_shared_blocks_stay_as_long_as_one_request_holds_them() -> None:
    blocks = ActiveBlocks()
    blocks.enter("a", HERE.id, FIRST)
    blocks.enter("b", HERE.id, SECOND)
    assert blocks.with_prompt(HERE.id, []) == 15
    blocks.leave("a")
    assert blocks.with_prompt(HERE.id, FIRST) == 10 + 5
