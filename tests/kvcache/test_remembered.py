from __future__ import annotations

from array import array

import pytest
from tests.builders import make_endpoint, make_request

from pointsman.clock import ManualClock
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.events import BlockStored, EventBatch
from pointsman.kvcache.fleet import MODEL, FleetIndex
from pointsman.kvcache.known_pods import WARM_CONFIDENCE, WARM_SECONDS
from pointsman.kvcache.kv_index import CPU, GPU
from pointsman.kvcache.remembered import Remembered
from pointsman.kvcache.snapshot import HolderSnapshot, pack
from pointsman.kvcache.told import Told

IDS = tuple(range(1000, 1064))
KEYS = token_block_keys(array("I", IDS), 16, root_key(MODEL))
A, B = make_endpoint(0), make_endpoint(1, block_size=16)


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock(50.0)
        self.sure: dict[str, float] = {A.id: 0.0, B.id: 0.0}
        self.fleet = FleetIndex(self.clock)
        self.memory = self.fleet.remembered = Remembered(self.clock, self.sure.get)
        self.fleet.follow(dict, lambda pod: self.sure[pod], lambda _: 0.0)

    def told(self, pod: str = A.id, size: int = 16) -> Told:
        return Told(pod, 0, 1, whole=True, block_size=size, models=(), confidence=1.0, wall=0.0)

    def match(self) -> tuple[dict[int, int], dict[int, int]]:
        self.clock.advance(0.2)
        found = self.fleet.match(make_request(token_ids=IDS), [A, B])
        assert found is not None
        return dict(found.tokens), dict(found.remembered)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_memory_is_a_guess_until_the_stream_is_sure(rig: Rig) -> None:
    told = HolderSnapshot(A.id, 0, [], 16, [pack(KEYS[:2]), pack(KEYS[2:3]), b""])
    unknown = HolderSnapshot("default/x", 0, [], 16, [pack([1]), b"", b""])
    others = [HolderSnapshot(A.id, 1, [], 16, [pack([1]), b"", b""]), HolderSnapshot(B.id, 0, [], 16, [b"", b"", b""])]
    assert list(rig.memory.restore([told, unknown, *others], rig.clock.now())) == [3, 1]
    assert rig.match() == ({0: 0, 1: 0}, {0: 48})
    assert rig.fleet.confidence(A.id) == WARM_CONFIDENCE
    assert rig.memory.describe(A.id) == {"blocks": 3, "confidence": 0.3}
    assert rig.memory.describe(B.id) is None
    assert rig.fleet.block_tokens(A) == 16
    rig.fleet.view(A).apply(EventBatch(0.0, (BlockStored([1], None, list(IDS[:16]), 16),)))
    assert rig.match() == ({0: 16, 1: 0}, {0: 48})
    assert rig.fleet.keys_of(A.id, GPU) == KEYS[:2]
    rig.sure[A.id] = 0.5
    assert rig.match() == ({0: 16, 1: 0}, {})
    rig.memory.refresh()
    assert (rig.memory.slot_of(A.id, 0), len(rig.memory)) == (-1, 1)
    assert rig.fleet.keys_of(A.id, CPU) == []


def test_what_is_followed_counts_like_a_stream(rig: Rig) -> None:
    slot = rig.memory.open(rig.told(), rig.clock.now() + 10)
    rig.memory.index.store(slot, GPU, KEYS[:3])
    assert rig.match() == ({0: 0, 1: 0}, {0: 48})
    rig.memory.trust(A.id, 0, 0.9, rig.clock.now() + 6)
    assert rig.match() == ({0: 48, 1: 0}, {})
    assert rig.fleet.confidence(A.id) == 0.9
    rig.clock.advance(6)
    assert rig.match() == ({0: 0, 1: 0}, {0: 48})
    rig.clock.advance(WARM_SECONDS + 1)
    rig.memory.refresh()
    assert rig.match() == ({1: 0}, {})


def test_slots_are_used_again_and_empty(rig: Rig) -> None:
    first = rig.memory.open(rig.told(A.id), 100)
    second = rig.memory.open(rig.told(B.id), 100)
    rig.memory.index.store(first, GPU, KEYS)
    assert rig.memory.open(rig.told(A.id), 100) == first
    assert rig.memory.keys_of(A.id, GPU) == []
    rig.memory.index.store(first, GPU, KEYS)
    rig.memory.drop(A.id, 0)
    rig.memory.drop(A.id, 0)
    assert rig.memory.open(rig.told("default/c"), 100) == first != second
    assert rig.memory.keys_of("default/c", GPU) == []


def test_only_endpoints_that_are_there_and_not_heard_are_wanted(rig: Rig) -> None:
    assert rig.memory.wants(A.id, 0)
    assert not rig.memory.wants(A.id, 1)
    assert not rig.memory.wants("default/x", 0)
    rig.sure[A.id] = 0.5
    assert not rig.memory.wants(A.id, 0)
