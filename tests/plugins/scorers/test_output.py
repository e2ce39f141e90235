"""Expected output: the mean of what was seen, and what teaches nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import (
    make_endpoint,
    make_endpoints,
    make_handle,
    make_outcome,
    make_plugin,
    make_request,
    make_state,
)

from pointsman.api.endpoint import InflightLoad
from pointsman.api.result import RequestOutcome
from pointsman.plugins.scorers._output import ExpectedOutput
from pointsman.plugins.scorers.decode_interference_cost import DecodeInterferenceCost
from pointsman.plugins.scorers.kv_pressure_cost import KvPressureCost


def seen(tokens: int | None, **fields: Any) -> RequestOutcome:
    return make_outcome(make_endpoint(), output_tokens=tokens, **fields)


def test_a_wrong_guess_is_soon_forgotten() -> None:
    output = ExpectedOutput(256)
    output.learn(seen(1000))
    assert output.tokens == 628
    output.learn(seen(1000))
    assert output.tokens == 752
    for _ in range(100):
        output.learn(seen(1000))
    assert 990 < output.tokens < 1000


def test_it_follows_when_answers_change() -> None:
    output = ExpectedOutput(256)
    for _ in range(1000):
        output.learn(seen(1000))
    for _ in range(50):
        output.learn(seen(100))
    # 0.98 ** 50 = 0.364 of the old mean is left.
    assert output.tokens == pytest.approx(100 + 900 * 0.98**50, rel=1e-3)


def test_short_answers_that_end_first_do_not_make_the_long_ones_short() -> None:
    output = ExpectedOutput(256)
    for _ in range(200):
        output.learn(seen(20))
    assert output.tokens == 256


@pytest.mark.parametrize("outcome", [seen(None), seen(9, status=500), seen(9, cause="client-abort")])
def test_what_teaches_nothing(outcome: RequestOutcome) -> None:
    output = ExpectedOutput(256)
    output.learn(outcome)
    assert output.tokens == 256


@pytest.mark.parametrize("cls", [DecodeInterferenceCost, KvPressureCost])
def test_costs_follow_and_can_be_told_not_to(cls: type[DecodeInterferenceCost | KvPressureCost]) -> None:
    handle = make_handle({0: InflightLoad(requests=4, context_tokens=4000)})
    request = make_request(prompt_tokens=1000)
    learning, fixed = make_plugin(cls, handle), make_plugin(cls, handle, learnOutputTokens=False)
    for plugin in (learning, fixed):
        plugin.ended(seen(1000))
    told = make_plugin(cls, handle, learnOutputTokens=False, expectedOutputTokens=628)
    before, after, same = (one.cost(request, make_endpoints(1), make_state()) for one in (fixed, learning, told))
    assert after == pytest.approx(same)
    assert after[0] > before[0]
