"""The index, compiled and in Python."""

from __future__ import annotations

from array import array
from random import Random

import pytest

from pointsman.kvcache import _pure, kv_index
from pointsman.kvcache.blocks import block_keys
from pointsman.kvcache.kv_index import CPU, DISK, GPU, KVIndex

try:
    from pointsman import _speedups
except ImportError:  # pragma: no cover - no compiler
    TWINS = [_pure.BlockTable]
else:
    TWINS = [_pure.BlockTable, _speedups.BlockTable]  # type: ignore[list-item]


@pytest.fixture(autouse=True, params=TWINS, ids=lambda twin: twin.__module__.rsplit(".", maxsplit=1)[-1])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_index, "BlockTable", request.param)


def test_consecutive_leading_blocks_by_slot_and_tier() -> None:
    index = KVIndex()
    index.store(0, GPU, [1, 2, 3])
    index.store(2, GPU, [1])
    index.store(2, CPU, [1, 2])
    index.store(2, DISK, [3])
    found = index.match([1, 2, 3, 4])
    assert found.confirmed == [3, 0, 3]
    assert (found.total, found.best) == (4, 3)
    assert [found.tiers(slot) for slot in range(4)] == [(3, 0, 0), (0, 0, 0), (1, 1, 1), (0, 0, 0)]
    assert [found.of(slot) for slot in range(4)] == [3, 0, 3, 0]
    assert found.weighted(2) == pytest.approx(1.0 + 0.8 + 0.5)


def test_a_hole_ends_the_match() -> None:
    index = KVIndex()
    index.store(0, GPU, list(range(100)))
    index.store(1, GPU, list(range(100)))
    index.discard(0, GPU, [0])
    index.discard(1, GPU, [50])
    assert index.match(range_list(100)).confirmed == [0, 50]
    index.store(0, DISK, [0])
    assert index.match(range_list(100)).tiers(0) == (99, 0, 1)


def range_list(count: int) -> list[int]:
    return list(range(count))


def test_nothing_known_and_nothing_asked() -> None:
    index = KVIndex()
    assert index.match([1, 2]).confirmed == []
    assert index.match([]).best == 0
    index.store(3, GPU, [])
    assert index.match([1]).of(3) == 0
    assert len(index) == index.memory_blocks(3) == 0
    index.store(1, GPU, [1])
    assert index.match([]).confirmed == [0, 0]


def test_storing_and_removing_twice_is_once() -> None:
    index = KVIndex()
    assert index.store(0, GPU, [1, 2, 1]) == 2
    assert index.store(0, GPU, [1, 2]) == 0
    assert index.store(0, CPU, [1]) == 1
    assert index.memory_blocks(0) == 2
    assert index.tier_blocks(0) == (2, 1, 0)
    assert index.discard(0, GPU, [1, 1, 9]) == 1
    assert index.discard(0, GPU, [1]) == 0
    assert index.match([1, 2]).confirmed == [2]
    assert sorted(index.keys_of(0)) == [1, 2]
    assert index.keys_of(0, CPU) == [1]


@pytest.mark.parametrize("slots", [2, 64, 65, 700])
def test_no_cap_on_slots_per_key(slots: int) -> None:
    index = KVIndex()
    keys = range_list(5)
    for slot in range(slots):
        index.store(slot, slot % 3, keys[: slot % 6])
    found = index.match(keys)
    assert list(found.confirmed) == [slot % 6 for slot in range(slots)]
    for slot in range(slots):
        assert found.tiers(slot)[slot % 3] == slot % 6
    for slot in range(0, slots, 2):
        assert index.clear(slot) == slot % 6
    assert list(index.match(keys).confirmed) == [slot % 6 * (slot % 2) for slot in range(slots)]
    for slot in range(1, slots, 2):
        index.clear(slot)
    assert len(index) == 0


def test_clear_one_tier() -> None:
    index = KVIndex()
    index.store(0, GPU, [1, 2])
    index.store(0, CPU, [2, 3])
    assert index.clear(0, GPU) == 2
    assert sorted(index.keys_of(0)) == [2, 3]
    assert index.clear(0) == 2
    assert index.clear(0) == index.clear(9) == 0


def test_oldest_blocks_go_first_and_tails_before_heads() -> None:
    index = KVIndex(max_blocks=4)
    index.store(0, GPU, [1, 2])
    index.store(1, GPU, [3, 4])
    index.touch([1, 2, 99])
    index.store(1, GPU, [5])
    assert index.match([3, 4]).confirmed == [0, 1]
    assert index.match([1, 2]).confirmed == [2, 0]
    assert index.memory_blocks(1) == 2
    assert index.stats().evictions == 1


def test_past_the_bound_a_64th_goes_at_once() -> None:
    index = KVIndex(max_blocks=640)
    index.store(0, GPU, range_list(640))
    assert len(index) == 640
    index.store(0, GPU, [10_000])
    assert len(index) == 630
    assert index.match([10_000]).best == 1


def test_speculation_is_kept_apart_and_expires() -> None:
    index = KVIndex()
    index.store(0, CPU, [1, 2])
    index.speculate(0, [1, 2, 3], expires=10)
    index.speculate(4, [1], expires=5)
    found = index.match([1, 2, 3, 4])
    assert (found.confirmed, list(found.speculative)) == ([2], [3, 0, 0, 0, 1])
    assert [found.of(slot) for slot in range(6)] == [3, 0, 0, 0, 1, 0]
    assert found.blocks() == [3, 0, 0, 0, 1]
    assert found.best == 3
    assert found.weighted(0) == pytest.approx(2 * 0.8 + 1)
    assert index.stats().speculative == 4
    assert len(index) == 2
    assert index.expire(4.9) == 0
    assert index.expire(5) == 1
    assert index.match([1]).of(4) == 0
    index.speculate(0, [1, 2], expires=20)  # renews the head
    assert index.expire(10) == 1
    assert list(index.match([1, 2, 3]).speculative) == [2, 0, 0, 0, 0]
    index.clear(0)
    assert index.match([1]).best == 0
    assert index.expire(20) == index.stats().speculative == 0


def test_a_key_is_expected_as_long_as_its_last_chain() -> None:
    rng, index = Random(4), KVIndex()
    live: list[tuple[float, int, list[int]]] = []
    for now in range(300):
        keys = block_keys(bytes(rng.choice(b"ab") for _ in range(rng.randrange(7))), 1, 0)
        expires, slot = now + rng.randrange(1, 30), rng.randrange(3)
        index.speculate(slot, keys, expires)
        live = [(end, who, chain) for end, who, chain in live if end > now] + [(expires, slot, keys)]
        index.expire(now)
        expected = {(who, key) for _, who, chain in live for key in chain}
        assert index.stats().speculative == len(expected)
        found = index.match(keys)
        for who in range(3):
            assert found.of(who) == sum((who, key) in expected for key in keys)
    index.expire(1000)
    assert index.stats().speculative == 0


def test_what_an_engine_removed_is_not_expected_of_it_any_more() -> None:
    index = KVIndex()
    index.speculate(0, [1, 2, 3], expires=10)
    index.speculate(0, [1, 2, 4], expires=20)
    index.speculate(1, [1, 2, 3], expires=10)
    index.store(0, GPU, [1, 2, 3])
    index.discard(0, GPU, [2, 3])
    found = index.match([1, 2, 3])
    assert [found.of(slot) for slot in (0, 1)] == [1, 3]
    assert index.stats().speculative == 2 + 3
    index.speculate(0, [1, 2, 3], expires=30)  # the next pick
    assert index.match([1, 2, 3]).of(0) == 3
    index.store(0, CPU, [3])
    index.discard(0, CPU, [3])
    assert index.match([1, 2, 3]).of(0) == 3, "gone from another tier says nothing of GPU memory"
    assert index.expire(25) == 3 + 1
    assert index.expire(30) == 3
    assert index.stats().speculative == 0


def test_speculation_is_bounded() -> None:
    index = KVIndex(max_speculative=10)
    for at in range(20):
        index.speculate(at % 2, [10 * at + n for n in range(4)], expires=at)
    assert index.stats().speculative <= 10
    assert index.match([190]).best == 1
    with pytest.raises(ValueError, match="number"):
        index.speculate(0, [1], float("nan"))


def test_a_tier_without_weight_is_worth_the_least() -> None:
    index = KVIndex(tier_weights={GPU: 1.0, CPU: 0.25})
    index.store(0, DISK, [1])
    assert index.match([1]).weighted(0) == 0.25
    for wrong in ({GPU: 2.0}, {GPU: -1.0}):
        with pytest.raises(ValueError, match="weight"):
            KVIndex(tier_weights=wrong)
    with pytest.raises(ValueError, match="room"):
        KVIndex(max_blocks=0)


def test_stats() -> None:
    index = KVIndex()
    index.store(0, GPU, array("Q", [1, 2]))
    index.store(1, DISK, (1,))
    index.match([1, 2, 3])
    stats = index.stats()
    assert (stats.blocks, stats.slots, stats.tiers, stats.lookups, stats.hits) == (2, 2, (2, 0, 1), 3, 2)
    assert stats.bytes > 0


def test_slots_and_tiers_that_are_none() -> None:
    index = KVIndex()
    for slot, tier in ((-1, GPU), (65_536, GPU), (0, 3), (0, -1)):
        with pytest.raises(ValueError, match="is not within"):
            index.store(slot, tier, [1])
    assert len(index) == 0
