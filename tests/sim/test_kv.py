from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.sim.kv import BlockPool, BlocksRemoved, BlocksStored, CacheCleared, Hold, Origin, block_keys, root_key

ORIGIN = Origin(lambda i, j: list(range(i * 2, j * 2)))


def store(pool: BlockPool, keys: list[int], hold: Hold | None = None) -> Hold:
    hold = hold or Hold()
    assert pool.grow(hold, len(keys))
    pool.commit(hold, keys, None, 0, ORIGIN)
    return hold


class TestKeys:
    def test_only_full_blocks_have_keys(self) -> None:
        assert len(block_keys(array("I", range(39)), 7, 16)) == 2

    def test_a_key_depends_on_everything_before_it(self) -> None:
        one = block_keys(array("I", range(48)), 7, 16)
        other = block_keys(array("I", [99, *range(1, 48)]), 7, 16)
        assert one[0] != other[0]
        assert one[2] != other[2]

    def test_keys_can_be_continued(self) -> None:
        whole = block_keys(array("I", range(48)), 7, 16)
        assert block_keys(array("I", range(32, 48)), whole[1], 16) == whole[2:]

    def test_model_adapter_and_salt_keep_contents_apart(self) -> None:
        roots = {root_key("m", None, ""), root_key("m", "a", ""), root_key("m", None, "a"), root_key("n", None, "")}
        assert len(roots) == 4


class TestPool:
    def test_the_longest_cached_prefix_counts(self) -> None:
        pool = BlockPool(10, 2)
        store(pool, [1, 2, 4])
        assert pool.match([1, 2, 3, 4], 4) == 2
        assert pool.match([1, 2, 4], 2) == 2
        assert pool.match([9], 1) == 0

    def test_the_least_recently_used_goes_first_and_ends_before_beginnings(self) -> None:
        pool = BlockPool(4, 2, events=True)
        first, second = store(pool, [1, 2]), store(pool, [3, 4])
        pool.release(first)
        pool.release(second)
        assert (pool.used, pool.cached, pool.available) == (0, 4, 4)
        again = Hold()
        assert pool.acquire(again, [1], 0)  # touched: now younger than 3 and 4
        pool.release(again)
        pool.drain_events()
        assert pool.grow(Hold(), 4)
        assert pool.drain_events() == [BlocksRemoved([2, 4, 3, 1])]

    def test_shared_blocks_are_counted_once(self) -> None:
        pool = BlockPool(4, 2)
        first = store(pool, [1, 2])
        second = Hold()
        assert pool.acquire(second, [1, 2], 1)
        assert pool.used == 3
        pool.release(first)
        assert pool.used == 3
        pool.release(second)
        assert pool.used == 0

    def test_all_or_nothing(self) -> None:
        pool = BlockPool(3, 2)
        pool.release(store(pool, [1, 2]))
        hold = Hold()
        assert not pool.acquire(hold, [1, 2], 2)
        assert (pool.used, hold.blocks) == (0, 0)
        assert not pool.grow(hold, 4)

    def test_a_second_copy_stays_private(self) -> None:
        pool = BlockPool(8, 2, events=True)
        first, second = store(pool, [1, 2]), store(pool, [1, 2, 3])
        assert pool.used == 5
        assert [event.keys for event in pool.drain_events() if isinstance(event, BlocksStored)] == [[1, 2], [3]]
        pool.release(second)
        pool.release(first)
        assert (pool.used, pool.cached) == (0, 3)

    def test_clearing_waits_for_nobody(self) -> None:
        pool = BlockPool(4, 2, events=True)
        hold = store(pool, [1])
        assert not pool.clear()
        pool.release(hold)
        pool.drain_events()
        assert pool.clear()
        assert pool.drain_events() == [CacheCleared()]
        assert pool.cached == 0

    def test_events_say_what_and_where(self) -> None:
        pool = BlockPool(3, 2, events=True)
        hold = store(pool, [1, 2])
        pool.release(hold)
        other = Hold()
        assert pool.acquire(other, [1], 2)
        pool.commit(other, [7, 8], 1, 1, ORIGIN)
        assert pool.drain_events() == [
            BlocksStored([1, 2], None, [0, 1, 2, 3]),
            BlocksRemoved([2]),
            BlocksStored([7, 8], 1, [2, 3, 4, 5]),
        ]


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(4, 24),
    commands=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.booleans()), max_size=60),
)
def test_blocks_are_conserved_and_events_mirror_the_cache(total: int, commands: list[tuple[int, int, bool]]) -> None:
    pool = BlockPool(total, 2, events=True)
    holds: list[Hold] = []
    mirror: set[int] = set()
    for family, length, release in commands:
        if release and holds:
            pool.release(holds.pop(family % len(holds)))
        else:
            keys = [family * 100 + i for i in range(length)]
            hits = pool.match(keys, length)
            assert all(key in mirror for key in keys[:hits])
            hold = Hold()
            if pool.acquire(hold, keys[:hits], length - hits):
                pool.commit(hold, keys[hits:], keys[hits - 1] if hits else None, hits, ORIGIN)
                assert hold.blocks == length
                holds.append(hold)
        for event in pool.drain_events():
            if isinstance(event, BlocksStored):
                assert not mirror & set(event.keys)
                mirror.update(event.keys)
            elif isinstance(event, BlocksRemoved):
                assert mirror >= set(event.keys)
                mirror.difference_update(event.keys)
        assert len(mirror) <= total
        assert pool.used + pool.cached <= total
        assert sum(max(0, count) for count in pool._blocks.values()) == sum(len(hold.keys) for hold in holds)
        assert pool._held == sum(count > 0 for count in pool._blocks.values())
        assert pool._private == sum(hold.private for hold in holds)
        assert mirror == set(pool._blocks)
