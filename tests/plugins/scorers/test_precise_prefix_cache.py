from __future__ import annotations

import pytest
from tests.builders import make_endpoints, make_plugin, make_request, make_state

from pointsman.framework.keys import PRECISE_PREFIX_PRODUCER, PrefixMatch
from pointsman.plugins.producers.precise_prefix_cache import PrecisePrefixCacheProducer
from pointsman.plugins.scorers.precise_prefix_cache import PrecisePrefixCacheScorer


@pytest.mark.parametrize(
    ("match", "scores"),
    [
        (PrefixMatch(block_tokens=16, total_blocks=100, blocks=(10, 40, 0)), [0.25, 1.0, 0.0]),
        (PrefixMatch(block_tokens=16, total_blocks=100, blocks=(10, 10), worth=(8.0, 10.0)), [0.8, 1.0, 0.0]),
        (PrefixMatch(block_tokens=16, total_blocks=100), [0.0, 0.0, 0.0]),
    ],
)
def test_table(match: PrefixMatch, scores: list[float]) -> None:
    state = make_state(match, PRECISE_PREFIX_PRODUCER)
    assert make_plugin(PrecisePrefixCacheScorer).score(make_request(), make_endpoints(3), state) == scores


def test_hands_its_parameters_on() -> None:
    plugin = make_plugin(PrecisePrefixCacheScorer, kvEventsConfig={"podDiscoveryConfig": {"socketPort": 5557}})
    (spec,) = plugin.requires()
    producer = make_plugin(PrecisePrefixCacheProducer, name=spec.name, **dict(spec.parameters))
    assert producer.params.kv_events_config.pod_discovery_config.socket_port == 5557
    assert set(plugin.consumes()) <= set(producer.produces())
