"""Copying blocks back, against hand-computed milliseconds."""

from __future__ import annotations

import pytest
from tests.builders import make_endpoints, make_plugin, make_request, make_state

from pointsman.framework.keys import PRECISE_PREFIX_PRODUCER, PrefixMatch
from pointsman.plugins.scorers.tier_copy_cost import TierCopyCost

REQUEST = make_request(prompt_tokens=1000)
MATCH = PrefixMatch(16, 62, (62, 62, 62, 0), slower={1: (640, 0), 2: (320, 160)})


def test_by_tier() -> None:
    state = make_state(MATCH, PRECISE_PREFIX_PRODUCER)
    costs = make_plugin(TierCopyCost).cost(REQUEST, make_endpoints(5), state)
    # 262,144 bytes a token: at 20 GB/s 0.0131072 ms, at 5 GB/s 0.0524288 ms.
    assert costs == pytest.approx([0.0, 8.388608, 4.194304 + 8.388608, 0.0, 0.0])


def test_parameters() -> None:
    state = make_state(MATCH, "mine")
    plugin = make_plugin(
        TierCopyCost, kvBytesPerToken=100_000, cpuGbPerS=10, diskGbPerS=1, prefixMatchInfoProducerName="mine"
    )
    assert plugin.cost(REQUEST, make_endpoints(3), state) == pytest.approx([0.0, 6.4, 3.2 + 16.0])
    assert [key.name for key in plugin.consumes()] == ["prefix-match/mine"]


def test_nobody_knows_tiers() -> None:
    state = make_state(PrefixMatch(16, 62, (62, 0)), PRECISE_PREFIX_PRODUCER)
    assert make_plugin(TierCopyCost).cost(REQUEST, make_endpoints(2), state) == [0.0, 0.0]
    assert make_plugin(TierCopyCost).cost(REQUEST, make_endpoints(2), make_state()) == [0.0, 0.0], "producer failed"
