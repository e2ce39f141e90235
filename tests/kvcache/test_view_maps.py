"""A pod view's maps, compiled and in Python: equal results for equal calls, through every growth."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.kvcache import _pure_maps

speedups = pytest.importorskip("pointsman._speedups", exc_type=ImportError)
TWINS = pytest.mark.parametrize("twin", [_pure_maps, speedups], ids=["pure", "compiled"])
HUGE = 2**64 - 1


@TWINS
def test_blocks_live_until_their_last_copy_goes(twin: Any) -> None:
    blocks = twin.BlockMap()
    keys = [10, 20, HUGE]
    assert blocks.add([1, 0, HUGE], keys, 3) == (keys, False)
    assert blocks.add([1, 1, 1, 5], [10, 10, 10, None], 3) == ([], False)
    assert (len(blocks), blocks.spare) == (4, 2)
    assert (blocks.get(0), blocks.get(5), blocks.get(6), 5 in blocks, 6 in blocks) == (20, None, None, True, False)
    assert blocks.remove([1, 0, 7, 5]) == ([20], 1, [5])
    assert sorted(blocks.own()) == [10, HUGE]
    blocks.distrust()
    assert blocks.spare == 0
    assert blocks.remove([1, 1]) == ([10], 1, [])
    assert blocks.hashes() == [HUGE]


@TWINS
def test_keys_that_come_late(twin: Any) -> None:
    blocks = twin.BlockMap()
    assert blocks.add([1, 2], [None, None], None) == ([], False)
    assert blocks.add([1, 3], [5, 6], None) == ([6], True)
    assert blocks.get(1) is None
    assert blocks.fill(1, 5)
    assert not blocks.fill(1, 9)
    assert not blocks.fill(8, 9)
    assert (blocks.get(1), sorted(blocks.own()), sorted(blocks.hashes())) == (5, [5, 6], [1, 2, 3])


@TWINS
def test_held_keys_are_counted(twin: Any) -> None:
    counts = twin.KeyCounts()
    keys = array("Q", [1, 2, 0])
    assert counts.hold(keys) is keys
    assert counts.hold([2, 3]) == [3]
    assert counts.release([1, 2, 9]) == [1]
    assert counts.release([0, 2, 3]) == [0, 2, 3]
    assert len(counts) == 0
    assert counts.nbytes >= 0


@TWINS
@pytest.mark.parametrize("wrong", [None, 1, "12", [1.5], [-1], [2**64], object()])
def test_what_is_no_number_is_refused(twin: Any, wrong: Any) -> None:
    blocks, counts = twin.BlockMap(), twin.KeyCounts()
    calls: list[Callable[[], Any]] = [
        lambda: blocks.add(wrong, [1], None),
        lambda: blocks.add([1], wrong, None),
        lambda: blocks.remove(wrong),
        lambda: blocks.fill(wrong, 1),
        lambda: counts.hold(wrong),
        lambda: counts.release(wrong),
    ]
    for call in calls if wrong != 1 else calls[:1]:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            call()
    with pytest.raises(ValueError, match="as many"):
        blocks.add([1, 2], [1], None)
    assert (len(blocks), len(counts)) == (0, 0)


def same(mine: Any, twin: Any) -> None:
    assert (sorted(mine.hashes()), sorted(mine.own())) == (sorted(twin.hashes()), sorted(twin.own()))
    assert (len(mine), mine.spare) == (len(twin), twin.spare)


@given(st.integers(0, 2**32 - 1))
def test_equal_after_hundreds_of_changes(seed: int) -> None:
    rng = Random(seed)
    space = [*range(rng.choice([0, 3])), *(rng.getrandbits(64) for _ in range(rng.choice([5, 60, 600])))]
    mine, twin = speedups.BlockMap(), _pure_maps.BlockMap()
    held, times = speedups.KeyCounts(), _pure_maps.KeyCounts()
    for _ in range(80):
        hashes = rng.choices(space, k=rng.choice([1, 1, 8, 60]))
        kind = rng.randrange(6)
        if kind < 3:
            keys = [None if rng.random() < 0.1 * kind else hashed ^ 5 for hashed in hashes]
            most = rng.choice([None, 1, 2, 64])
            assert mine.add(hashes, keys, most) == twin.add(hashes, keys, most)
        elif kind < 5:
            assert mine.remove(hashes) == twin.remove(hashes)
        else:
            assert mine.fill(hashes[0], 7) == twin.fill(hashes[0], 7)
        assert [mine.get(hashed) for hashed in hashes] == [twin.get(hashed) for hashed in hashes]
        call = rng.choice(["hold", "hold", "release"])
        assert list(getattr(held, call)(hashes)) == list(getattr(times, call)(hashes))
        assert len(held) == len(times)
    same(mine, twin)


def test_growth_and_shrinking_at_size() -> None:
    rng = Random(4)
    blocks, live = speedups.BlockMap(), {}
    for _ in range(300):
        new = [rng.getrandbits(64) for _ in range(rng.choice([1, 50, 900]))]
        blocks.add(new, new, None)
        live.update(dict.fromkeys(new))
        gone = rng.sample(list(live), k=rng.randrange(min(len(live), 600)))
        assert sorted(blocks.remove(gone)[0]) == sorted(gone)
        for hashed in gone:
            del live[hashed]
        assert len(blocks) == len(live)
    assert set(blocks.hashes()) == set(live)
    assert blocks.nbytes < 100 * len(live) + 4096
