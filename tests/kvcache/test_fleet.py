from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_request

from pointsman.api.endpoint import LoraState
from pointsman.clock import ManualClock
from pointsman.framework.kv import KvMatch
from pointsman.kvcache.events import AllCleared, BlockStored, EventBatch
from pointsman.kvcache.fleet import FleetIndex
from pointsman.kvcache.following import Following, StreamStatus
from pointsman.kvcache.stream_types import StreamOptions

IDS = tuple(range(1000, 1064))
A, B = make_endpoint(0, block_size=16), make_endpoint(1, block_size=32)


def stored(count: int, size: int, **more: Any) -> EventBatch:
    return EventBatch(0.0, (BlockStored(list(range(count)), None, list(IDS[: count * size]), size, **more),))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(50.0)


@pytest.fixture
def fleet(clock: ManualClock) -> FleetIndex:
    return FleetIndex(clock)


def tokens(fleet: FleetIndex, **request: Any) -> dict[int, int]:
    found = fleet.match(make_request(token_ids=IDS, **request), [A, B])
    assert found is not None
    return dict(found.tokens)


def test_each_endpoint_in_its_own_block_size(fleet: FleetIndex) -> None:
    fleet.view(A).apply(stored(3, 16))
    fleet.view(B).apply(stored(1, 32))
    assert tokens(fleet) == {0: 48, 1: 32}
    fleet.forget(A.id)
    assert tokens(fleet) == {0: 0, 1: 32}
    fleet.reset()
    assert tokens(fleet) == {0: 0, 1: 0}


def test_one_token_is_always_computed(fleet: FleetIndex) -> None:
    fleet.view(A).apply(stored(4, 16))
    assert tokens(fleet)[0] == 48


def test_models_share_and_adapters_and_salts_do_not(fleet: FleetIndex) -> None:
    fleet.view(A).apply(stored(2, 16))
    assert tokens(fleet, model="alias")[0] == 32
    assert tokens(fleet, cache_salt="tenant")[0] == 0
    lora = make_endpoint(0, block_size=16, lora=LoraState(available=frozenset({"sql"})))
    found = fleet.match(make_request(model="sql", token_ids=IDS), [lora])
    assert found is not None
    assert found.tokens == {0: 0}
    fleet.view(A).apply(stored(2, 16, adapter="sql"))
    found = fleet.match(make_request(model="sql", token_ids=IDS), [lora])
    assert found is not None
    assert found.tokens == {0: 32}


def test_without_ids_or_sizes_nothing_is_known(fleet: FleetIndex) -> None:
    assert fleet.match(make_request(b"text"), [A]) is None
    bare = make_endpoint(0)
    assert fleet.match(make_request(token_ids=IDS), [bare]) == KvMatch({}, {})
    fleet.view(bare).apply(stored(2, 16))
    assert fleet.block_tokens(bare) == 16


def test_what_was_sent_is_expected_for_a_while(fleet: FleetIndex, clock: ManualClock) -> None:
    awaited: list[str] = []
    fleet.expect = awaited.append
    found = fleet.match(make_request(token_ids=IDS), [A, B])
    assert found is not None
    fleet.speculate(A, found, 0.0)
    assert (awaited, tokens(fleet)) == ([A.id], {0: 0, 1: 0})
    fleet.speculate(A, found, 2.0)
    assert tokens(fleet) == {0: 48, 1: 0}
    clock.advance(2.1)
    fleet.confidence(A.id)
    assert tokens(fleet)[0] == 0


def test_a_longer_delay_of_events_is_waited_for(fleet: FleetIndex, clock: ManualClock) -> None:
    following = Following(A.id, 0, fleet.view(A), StreamOptions(), lambda _: None)
    following.online(0.0)
    following.message(0, EventBatch(0.0, (AllCleared(),)), clock.now(), 3.0)
    fleet.follow(dict, lambda _: 1.0, lambda _: following.stream.lag)
    found = fleet.match(make_request(token_ids=IDS), [A])
    assert found is not None
    fleet.speculate(A, found, 1.0)
    clock.advance(6.9)
    fleet.confidence(A.id)
    assert tokens(fleet)[0] == 48
    clock.advance(0.2)
    fleet.confidence(A.id)
    assert tokens(fleet)[0] == 0


def test_confidence_follows_the_stream_within_a_tenth_of_a_second(fleet: FleetIndex, clock: ManualClock) -> None:
    following = Following(A.id, 0, fleet.view(A), StreamOptions(), lambda _: None)
    seen: list[StreamStatus] = []

    def status() -> dict[Any, StreamStatus]:
        seen.append(following.status(clock.now()))
        return {A.id: seen[-1]}

    fleet.follow(status, lambda pod: status()[A.id].confidence if pod == A.id else 0.0, lambda _: 0.0)
    assert fleet.confidence(A.id) == 0.0
    following.online(clock.now())
    following.message(0, stored(2, 16), clock.now(), 0.0)
    assert fleet.confidence(A.id) == 0.0
    clock.advance(0.2)
    assert (fleet.confidence(A.id), fleet.confidence(B.id), len(seen)) == (1.0, 0.0, 2)
    described = fleet.describe(A)
    assert described is not None
    assert (described["blocks"], described["confidence"], described["gaps"]) == ({"gpu": 2, "cpu": 0, "disk": 0}, 1, 0)
    assert msgspec.json.encode(described)
    assert fleet.describe(B) is None
