from __future__ import annotations

from tests.builders import make_endpoints, make_handle, make_plugin, make_request

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.inflight_load import InflightLoadProducer, inflight_key


def test_copies_the_ledger() -> None:
    handle = make_handle({1: InflightLoad(requests=3, tokens=700)})
    producer, state = make_plugin(InflightLoadProducer, handle), CycleState()
    producer.produce(make_request(), make_endpoints(2), state)
    snapshot = state.read(inflight_key())
    assert snapshot.requests == {0: 0, 1: 3}
    assert snapshot.tokens == {0: 0, 1: 700}
    assert producer.produces() == (inflight_key(),)


def test_accepts_llmds_parameters() -> None:
    make_plugin(InflightLoadProducer, addEstimatedOutputTokens=True, outputRatio=1.5, maxEstimatedOutputTokens=4096)
