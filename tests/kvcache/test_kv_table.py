"""The table of blocks against an oracle that is as plain as can be, compiled and in Python."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pointsman.kvcache import _native, _pure
from pointsman.kvcache.kv_index import CPU, DISK, GPU


class Oracle:
    """Triples, and an order of blocks."""

    def __init__(self) -> None:
        self.held: dict[int, set[tuple[int, int]]] = {}  # key -> (slot, tier), oldest first

    def store(self, slot: int, tier: int, keys: Sequence[int], bound: int) -> None:
        for key in reversed(keys):
            self.held[key] = self.held.pop(key, set()) | {(slot, tier)}
        while len(self.held) > bound:
            del self.held[next(iter(self.held))]

    def drop(self, slot: int, tiers: set[int], keys: Sequence[int]) -> None:
        for key in keys:
            left = {(s, t) for s, t in self.held.get(key, set()) if s != slot or t not in tiers}
            if left:
                self.held[key] = left
            else:
                self.held.pop(key, None)

    def match(self, slot: int, keys: Sequence[int]) -> list[int]:
        tiers: list[int] = []
        for key in keys:
            best = min((tier for s, tier in self.held.get(key, ()) if s == slot), default=None)
            if best is None:
                break
            tiers.append(best)
        return [tiers.count(tier) for tier in (GPU, CPU, DISK)]


SLOTS = (0, 1, 2, 3, 63, 64, 130)
SLOT, TIER = st.sampled_from(SLOTS), st.integers(0, 2)
KEYS = st.one_of(
    st.lists(st.integers(0, 14), max_size=6),
    st.tuples(st.integers(0, 14), st.integers(0, 15)).map(lambda ends: list(range(ends[0], ends[1]))),
)


class TableMachine(RuleBasedStateMachine):
    """Any order of stores, removals, clears and touches, with heads gone before tails."""

    bound = 12
    twin: type[_pure.BlockTable] = _pure.BlockTable

    def __init__(self) -> None:
        super().__init__()
        self.table, self.oracle = self.twin(self.bound), Oracle()

    @rule(slot=SLOT, tier=TIER, keys=KEYS)
    def store(self, slot: int, tier: int, keys: list[int]) -> None:
        self.table.store(slot, tier, keys)
        self.oracle.store(slot, tier, keys, self.bound)

    @rule(slot=SLOT, tier=TIER, keys=KEYS)
    def discard(self, slot: int, tier: int, keys: list[int]) -> None:
        self.table.discard(slot, tier, keys)
        self.oracle.drop(slot, {tier}, keys)

    @rule(slot=SLOT, tier=st.integers(-1, 2))
    def clear(self, slot: int, tier: int) -> None:
        self.table.clear(slot, tier)
        self.oracle.drop(slot, {0, 1, 2} if tier < 0 else {tier}, list(self.oracle.held))

    @rule(keys=KEYS)
    def touch(self, keys: list[int]) -> None:
        self.table.touch(keys)
        for key in reversed(keys):
            if key in self.oracle.held:
                self.oracle.held[key] = self.oracle.held.pop(key)

    @rule(keys=KEYS)
    def match(self, keys: list[int]) -> None:
        blocks, cpu, disk, best = self.table.match(keys)
        for slot in SLOTS:
            total, low, lowest = (part[slot] if slot < len(part) else 0 for part in (blocks, cpu, disk))
            assert [total - low - lowest, low, lowest] == self.oracle.match(slot, keys)
        assert best == max(blocks, default=0)

    @invariant()
    def same_blocks(self) -> None:
        assert len(self.table) == len(self.oracle.held)
        for slot in SLOTS:
            for tier in range(3):
                mine = sorted(key for key, held in self.oracle.held.items() if (slot, tier) in held)
                assert sorted(self.table.keys_of(slot, tier)) == mine
                assert self.table.counts(slot)[1 + tier] == len(mine)


SETTINGS = settings(max_examples=60, stateful_step_count=30, deadline=None)


class MachineInUse(TableMachine):
    twin = _native.BlockTable


TestPureAgainstOracle = TableMachine.TestCase
TestPureAgainstOracle.settings = SETTINGS
TestInUseAgainstOracle = MachineInUse.TestCase
TestInUseAgainstOracle.settings = SETTINGS
