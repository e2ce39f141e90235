"""Costs at a pod that is known to be slow."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import make_endpoints, make_handle, make_plugin, make_request, make_state

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.plugin import CostScorer
from pointsman.latency.fit import FittingModel
from pointsman.latency.model import DEFAULT_PROFILE, LATENCY_PROFILES
from pointsman.plugins.scorers.decode_interference_cost import DecodeInterferenceCost
from pointsman.plugins.scorers.uncached_prefill_cost import UncachedPrefillCost

SEED = LATENCY_PROFILES[DEFAULT_PROFILE]


@pytest.mark.parametrize("scorer", [UncachedPrefillCost, DecodeInterferenceCost])
def test_a_slow_pod_is_dearer_by_its_pace(scorer: type[CostScorer[Any]]) -> None:
    endpoints = make_endpoints(3)
    model = FittingModel(SEED, per_pod=True)
    load = InflightLoad(requests=4, decoding=4, context_tokens=8000)
    plugin = make_plugin(scorer, make_handle(dict.fromkeys(range(3), load), cost=model))
    request, state = make_request(prompt_tokens=1000), make_state()
    before = list(plugin.cost(request, endpoints, state))
    assert min(before) == max(before) > 0
    model.paces = {endpoints[1].id: 2.0}
    assert list(plugin.cost(request, endpoints, state)) == pytest.approx([before[0], 2 * before[0], before[0]])


def test_a_model_that_fits_nothing_knows_no_paces() -> None:
    assert make_handle(cost=SEED).paces == {}
