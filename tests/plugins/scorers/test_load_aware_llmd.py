from __future__ import annotations

import msgspec
import pytest
from tests.builders import make_endpoint, make_handle, make_plugin, make_request, make_state

from pointsman.api.endpoint import Growth
from pointsman.plugins.scorers.load_aware_llmd import LoadAwareScorer


def test_table() -> None:
    endpoints = [make_endpoint(slot, waiting=count) for slot, count in enumerate([0, 32, 64, 128, 500])]
    scores = make_plugin(LoadAwareScorer).score(make_request(), endpoints, make_state())
    assert scores == [0.5, 0.375, 0.25, 0.0, 0.0]
    assert make_plugin(LoadAwareScorer, threshold=64).score(make_request(), endpoints[1:3], make_state()) == [0.25, 0.0]


def test_a_burst_counts_at_once_and_silence_does_not_fill_up() -> None:
    plugin = make_plugin(LoadAwareScorer, make_handle(growths={0: Growth(pending=64)}))
    endpoints = [make_endpoint(0, waiting=0), make_endpoint(1, waiting=128, updated=0.0)]
    assert plugin.score(make_request(), endpoints, make_state()) == [0.25, 0.5]


def test_refuses() -> None:
    with pytest.raises(msgspec.ValidationError, match="threshold"):
        make_plugin(LoadAwareScorer, threshold=0)
