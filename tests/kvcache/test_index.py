from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pointsman.kvcache.blocks import block_keys
from pointsman.kvcache.index import PrefixIndex


def chain(text: str) -> list[int]:
    """One block per letter."""
    return block_keys(text.encode(), 1, 0)


def test_match_counts_consecutive_leading_blocks_by_slot() -> None:
    index = PrefixIndex()
    index.record(0, chain("abcd"))
    index.record(2, chain("abxy"))
    assert index.match(chain("abce")) == [3, 0, 2]
    assert index.match(chain("abcdef")) == [4, 0, 2]
    assert index.match(chain("zabcd")) == [0, 0, 0]
    assert index.match([]) == [0, 0, 0]


def test_empty_index_matches_nothing() -> None:
    index = PrefixIndex()
    assert index.match(chain("abc")) == []
    index.record(5, [])
    assert index.match(chain("abc")) == []
    assert len(index) == 0


def test_many_slots() -> None:
    index = PrefixIndex()
    for slot in range(100):
        index.record(slot, chain("x" * (slot % 7)))
    assert index.match(chain("xxxxxxxx"))[:100] == [slot % 7 for slot in range(100)]


def test_tails_are_evicted_before_heads() -> None:
    index = PrefixIndex(capacity=3)
    index.record(0, chain("abcde"))
    assert index.match(chain("abcde")) == [3]
    assert index.stats().evictions == 2


def test_the_oldest_chain_is_evicted_first_and_a_shared_head_last() -> None:
    index = PrefixIndex(capacity=4)
    index.record(0, chain("ab1"))
    index.record(0, chain("ab2"))
    index.record(0, chain("ab3"))  # five blocks: tail 1 goes
    assert index.match(chain("ab1")) == [2]
    assert index.match(chain("ab2")) == [3]
    assert index.match(chain("ab3")) == [3]


def test_recording_again_renews() -> None:
    index = PrefixIndex(capacity=4)
    index.record(0, chain("ab"))
    index.record(0, chain("cd"))
    index.record(0, chain("ab"))
    index.record(0, chain("ef"))
    assert index.match(chain("ab")) == [2]
    assert index.match(chain("cd")) == [0]


def test_capacity_per_slot() -> None:
    index = PrefixIndex()
    index.record(0, chain("abcdef"))
    index.record(1, chain("abcdef"))
    index.set_capacity(0, 2)
    assert index.match(chain("abcdef")) == [2, 6]
    assert len(index) == 6
    index.set_capacity(1, 0)
    assert index.match(chain("abcdef")) == [2, 0]
    index.record(1, chain("abc"))
    assert index.match(chain("abc")) == [2, 0]


def test_remove_forgets_blocks_and_capacity() -> None:
    index = PrefixIndex(capacity=10)
    index.set_capacity(0, 1)
    index.record(0, chain("abc"))
    index.record(1, chain("abc"))
    index.remove(0)
    index.remove(7)
    assert index.match(chain("abc")) == [0, 3]
    index.record(0, chain("abc"))
    assert index.match(chain("abc")) == [3, 3]


def test_clear_and_stats() -> None:
    index = PrefixIndex()
    index.record(0, chain("abcd"))
    index.record(1, chain("ab"))
    index.match(chain("abcdef"))
    stats = index.stats()
    assert (stats.blocks, stats.entries, stats.slots) == (4, 6, 2)
    assert (stats.lookups, stats.hits) == (6, 4)
    index.clear()
    assert len(index) == 0
    assert index.match(chain("abcd")) == [0, 0]
    assert index.stats().entries == 0


class NaiveIndex:
    """The same in the plainest way: per slot a list of keys, oldest first."""

    def __init__(self, capacity: int) -> None:
        self.default = capacity
        self.capacity: dict[int, int] = {}
        self.held: dict[int, list[int]] = {}

    def record(self, slot: int, keys: list[int]) -> None:
        held = [key for key in self.held.get(slot, []) if key not in keys]
        self.held[slot] = held + list(reversed(keys))
        self.shrink(slot)

    def shrink(self, slot: int) -> None:
        held = self.held.get(slot, [])
        over = len(held) - self.capacity.get(slot, self.default)
        if over > 0:
            self.held[slot] = held[over:]

    def match(self, slot: int, keys: list[int]) -> int:
        held = self.held.get(slot, [])
        return next((at for at, key in enumerate(keys) if key not in held), len(keys))


TEXT = st.text("ab", max_size=9)
SLOT = st.integers(0, 3)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index, self.naive = PrefixIndex(capacity=6), NaiveIndex(6)

    @rule(slot=SLOT, text=TEXT)
    def record(self, slot: int, text: str) -> None:
        self.index.record(slot, chain(text))
        self.naive.record(slot, chain(text))

    @rule(slot=SLOT, blocks=st.integers(0, 12))
    def set_capacity(self, slot: int, blocks: int) -> None:
        self.index.set_capacity(slot, blocks)
        self.naive.capacity[slot] = blocks
        self.naive.shrink(slot)

    @rule(slot=SLOT)
    def remove(self, slot: int) -> None:
        self.index.remove(slot)
        self.naive.held.pop(slot, None)
        self.naive.capacity.pop(slot, None)

    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.naive.held.clear()

    @rule(text=TEXT)
    def match(self, text: str) -> None:
        found = self.index.match(chain(text))
        found += [0] * (4 - len(found))
        assert found == [self.naive.match(slot, chain(text)) for slot in range(4)]

    @invariant()
    def same_size(self) -> None:
        assert len(self.index) == len({key for held in self.naive.held.values() for key in held})
        assert self.index.stats().entries == sum(len(held) for held in self.naive.held.values())


TestIndexAgainstNaiveModel = IndexMachine.TestCase
TestIndexAgainstNaiveModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("slots", [1, 8])
def test_remove_is_bounded_by_the_slots_own_blocks(slots: int) -> None:
    index = PrefixIndex()
    for slot in range(slots):
        index.record(slot, chain("abc"))
    assert index.stats().entries == 3 * slots
    index.remove(0)
    assert index.stats().entries == 3 * (slots - 1)
