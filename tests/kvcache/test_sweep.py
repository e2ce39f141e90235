"""Slots that are cleared at once and swept by and by: nobody sees what is left of them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.kvcache import _pure

speedups = pytest.importorskip("pointsman._speedups", exc_type=ImportError)
MANY = 20_000


def numbers(seed: int, count: int = MANY) -> list[int]:
    rng = Random(seed)
    return [rng.getrandbits(64) for _ in range(count)]


def test_a_big_slot_is_empty_at_once_and_can_be_used_again() -> None:
    table, mine, shared = speedups.BlockTable(), numbers(1), numbers(2)
    table.store(0, 0, mine + shared)
    table.store(0, 1, shared)
    table.store(1, 0, shared)
    assert table.clear(0) == 3 * MANY
    assert table.sweep(0), "there is work left"
    assert (table.counts(0), table.keys_of(0), table.clear(0)) == ((0, 0, 0, 0), [], 0)
    assert table.match(mine)[0] == [0, 0]
    assert table.match(shared)[0] == [0, MANY]
    table.store(0, 2, mine[:10])
    assert table.counts(0) == (10, 0, 0, 10)
    while table.sweep(500):
        assert sorted(table.keys_of(0)) == sorted(mine[:10])
        assert (table.match(mine)[0], table.match(shared)[0]) == ([10, 0], [0, MANY])
    assert len(table) == MANY + 10
    assert not table.sweep()


def test_stores_and_removals_elsewhere_sweep() -> None:
    table = speedups.BlockTable()
    table.store(0, 0, numbers(1))
    table.clear(0)
    before = len(table)
    for number in range(2000):
        table.store(1, 0, [number])
        table.discard(1, 0, [number])
    assert before > 0
    assert len(table) == 0


def test_memory_of_what_comes_and_goes_is_given_back() -> None:
    table = speedups.BlockTable()
    most = 0
    for turn in range(30):
        table.store(turn % 3, 0, numbers(turn))
        table.clear((turn + 1) % 3)
        most = max(most, table.nbytes)
    table.sweep()
    assert most < 64 * 4 * MANY
    assert len(table) == 2 * MANY


def test_past_the_bound_what_was_cleared_goes_first() -> None:
    table, fresh = speedups.BlockTable(3000), numbers(2, 1500)
    table.store(1, 0, fresh)
    table.store(0, 0, numbers(1, 1500))
    table.store(0, 0, fresh)
    table.clear(0)
    table.store(1, 0, numbers(3, 600))
    assert table.match(fresh)[0] == [0, 1500]
    assert table.evicted == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equal_to_the_twin_whatever_waits_to_be_swept(seed: int) -> None:
    rng = Random(seed)
    mine, twin = speedups.BlockTable(), _pure.BlockTable()
    space = numbers(seed, 6000)
    for _ in range(40):
        slot, tier, start = rng.choice([0, 1, 2, 70]), rng.randrange(3), rng.randrange(len(space))
        keys = space[start : start + rng.choice([1, 50, 3000])]
        for name, arguments in (
            rng.choice([("store", (slot, tier, keys)), ("discard", (slot, tier, keys)), ("clear", (slot,))]),
            ("match", (keys,)),
            ("counts", (slot,)),
        ):
            assert getattr(mine, name)(*arguments) == getattr(twin, name)(*arguments)
        if rng.random() < 0.1:
            mine.sweep(rng.randrange(5000))
    for slot in (0, 1, 2, 70):
        held = mine.keys_of(slot)
        assert len(set(held)) == len(held), "each once"
        assert sorted(held) == sorted(twin.keys_of(slot))
    mine.sweep()
    assert len(mine) == len(twin)
