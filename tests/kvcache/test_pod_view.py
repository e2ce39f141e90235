from __future__ import annotations

import random
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.kvcache.sinks import DictSink

from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key, with_ids
from pointsman.kvcache.events import (
    ANY_MEDIUM,
    AllCleared,
    BlockRemoved,
    BlockStored,
    CacheEvent,
    EventBatch,
)
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.residency import CPU, DISK, GPU, tier_of

MODEL = "m"


@pytest.fixture
def sink() -> DictSink:
    return DictSink()


@pytest.fixture
def view(sink: DictSink) -> PodView:
    return PodView(sink, 3, MODEL)


def apply(view: PodView, *events: CacheEvent) -> None:
    view.apply(EventBatch(0.0, events))


def stored(hashes: list[int], tokens: str, parent: int | None = None, **more: Any) -> BlockStored:
    """Blocks of two letters."""
    size = more.pop("block_size", 2)
    return BlockStored(hashes, parent, [ord(letter) for letter in tokens], size, **more)


def keys(tokens: str, *, adapter: str | None = None, salt: str | None = None, size: int = 2) -> list[int]:
    return token_block_keys([ord(letter) for letter in tokens], size, root_key(MODEL, adapter, salt))


def test_chains_become_own_keys(view: PodView, sink: DictSink) -> None:
    apply(view, stored([1, 2], "abcd"), stored([3], "ef", 2))
    assert sink.keys == {(3, GPU): set(keys("abcdef"))}
    assert (view.live, view.block_size, view.indexed) == ({("GPU", 0): 3}, 2, 3)
    assert view.hashes() == {1, 2, 3}
    apply(view, BlockRemoved([3]))
    assert sink.leading(3, keys("abcdef")) == 2


def test_stored_twice_lives_until_removed_twice(view: PodView, sink: DictSink) -> None:
    apply(view, *[stored([1], "ab")] * 3, BlockRemoved([1]), BlockRemoved([1]))
    assert sink.tiers(3) == {GPU: 1}
    apply(view, BlockRemoved([1]))
    assert (sink.tiers(3), view.live) == ({}, {})
    apply(view, BlockRemoved([1]))
    assert view.counts["removed-unknown"] == 1


def test_many_blocks_at_once(view: PodView, sink: DictSink) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    event = stored(list(range(13)), text)
    apply(
        view, event, BlockRemoved(list(range(13))), event, event, stored([50] * 13, text), BlockRemoved(list(range(13)))
    )
    assert view.live == {("GPU", 0): 14}
    assert sink.keys == {(3, GPU): set(keys(text))}


def test_copies_are_capped(sink: DictSink) -> None:
    view = PodView(sink, 3, MODEL, max_copies=2)
    apply(view, *[stored([1], "ab")] * 9, BlockRemoved([1]), BlockRemoved([1]))
    assert view.live == {}


def test_more_copies_than_the_engine_has_blocks_are_distrusted(view: PodView) -> None:
    apply(view, *[stored([1], "ab")] * 9, stored([2], "cd"))
    view.bound(10)
    apply(view, BlockRemoved([1]))
    assert view.live == {("GPU", 0): 2}
    view.bound(5)
    apply(view, BlockRemoved([1]))
    assert view.live == {("GPU", 0): 1}


def test_clearing(view: PodView, sink: DictSink) -> None:
    apply(view, stored([1], "ab"), stored([9], "xy", 8), AllCleared(), stored([2], "cd"))
    assert sink.keys == {(3, GPU): set(keys("cd"))}
    assert (view.orphans, view.live) == (0, {("GPU", 0): 1})
    view.forget()
    assert (view.block_size, sink.keys) == (0, {})


def test_tiers_of_offloaded_blocks_are_set_by_hash(view: PodView, sink: DictSink) -> None:
    apply(view, stored([1, 2], "abcd"), BlockStored([1, 7], medium="CPU"), BlockStored([1], medium="FLOPPY"))
    assert sink.tiers(3) == {GPU: 2, CPU: 1, DISK: 1}
    assert view.live == {("GPU", 0): 2, ("CPU", 0): 2, ("FLOPPY", 0): 1}
    apply(view, BlockRemoved([1], "GPU"))
    assert sink.keys[3, CPU] == {keys("ab")[0]}
    apply(view, stored([5], "ef", 1))  # its parent lives in the slower tiers only
    assert keys("abef")[1] in sink.keys[3, GPU]
    apply(view, BlockRemoved([1, 7], ANY_MEDIUM))
    assert sink.tiers(3) == {GPU: 2}


@pytest.mark.parametrize(
    ("medium", "tier"),
    [("GPU", GPU), ("gpu", GPU), ("CPU_PINNED", CPU), ("STORAGE", DISK), ("EXTERNAL", DISK), ("?", DISK)],
)
def test_unknown_media_are_the_slowest(medium: str, tier: int) -> None:
    assert tier_of(medium) == tier


def test_orphans_are_joined_when_the_parent_appears(view: PodView, sink: DictSink) -> None:
    apply(view, stored([3], "ef", 2), stored([4], "gh", 3), BlockStored([4], medium="CPU"))
    assert (view.orphans, sink.tiers(3), view.live) == (2, {}, {("GPU", 0): 2, ("CPU", 0): 1})
    apply(view, stored([1, 2], "abcd"))
    assert sink.keys == {(3, GPU): set(keys("abcdefgh")), (3, CPU): {keys("abcdefgh")[3]}}
    assert view.orphans == 0


def test_an_orphan_is_credited_to_nobody_and_not_counted_as_known(view: PodView, sink: DictSink) -> None:
    """The same tokens at the start of a prompt are other blocks: these stand behind a prefix that nobody told us."""
    assert view.coverage == 0.0
    view.bound(8)
    apply(view, BlockStored([3, 4], 2, [ord(c) for c in "efgh"], 2))
    assert (view.orphans, sink.keys, view.coverage) == (2, {}, 0.0)
    assert sink.leading(3, keys("efgh")) == 0
    apply(view, BlockStored([1, 2], None, [ord(c) for c in "abcd"], 2))
    assert (view.orphans, view.coverage) == (0, 4 / 8)
    assert sink.leading(3, keys("abcdefgh")) == 4
    assert sink.leading(3, keys("efgh")) == 0
    view.bound(2)
    assert view.coverage == 1.0


def test_an_orphan_waits_on_when_its_parent_goes_and_comes_back(view: PodView, sink: DictSink) -> None:
    apply(view, stored([3], "ef", 2), stored([4], "gh", 3), BlockRemoved([3]), stored([1, 2], "abcd"))
    assert (sink.keys, view.orphans) == ({(3, GPU): set(keys("abcd"))}, 1)
    apply(view, stored([3], "ef", 2))
    assert (sink.keys, view.orphans) == ({(3, GPU): set(keys("abcdefgh"))}, 0)


def test_orphans_can_be_joined_from_outside(view: PodView, sink: DictSink) -> None:
    apply(view, stored([3], "ef", 2))
    view.join(2, keys("abcd")[1])
    assert sink.keys == {(3, GPU): {keys("abcdef")[2]}}


def test_orphans_that_are_removed_or_too_many_are_dropped(sink: DictSink) -> None:
    view = PodView(sink, 3, MODEL, max_orphans=2)
    apply(view, stored([3], "ef", 2), stored([4], "gh", 99), stored([5], "ij", 98), BlockRemoved([5]))
    assert (view.orphans, view.counts["orphan-dropped"]) == (1, 1)
    apply(view, stored([1, 2], "abcd"))
    assert sink.tiers(3) == {GPU: 2}
    apply(view, BlockRemoved([3, 4, 1, 2]))
    assert (view.orphans, view.live, view._waiting, view._orphans) == (0, {}, {}, {})


def test_lengths_that_do_not_agree_are_never_paired(view: PodView, sink: DictSink) -> None:
    apply(view, stored([1], "abcd"), stored([], "ab"), stored([2], "ab", block_size=0))
    assert (sink.tiers(3), view.live, view.counts["mismatch"]) == ({}, {("GPU", 0): 2}, 3)


def test_adapter_salt_and_images_make_other_keys(view: PodView, sink: DictSink) -> None:
    plain = keys("abcd")
    apply(view, stored([1, 2], "abcd", adapter="sql", extra_keys=[["sql", "tenant"], ["sql"]]))
    assert sink.keys == {(3, GPU): set(keys("abcd", adapter="sql", salt="tenant"))}
    apply(view, AllCleared(), stored([1, 2], "abcd", extra_keys=[["tenant"], None]))
    assert sink.keys == {(3, GPU): set(keys("abcd", salt="tenant"))}
    apply(view, AllCleared(), stored([1, 2], "abcd", cache_salt="tenant"))
    assert sink.keys == {(3, GPU): set(keys("abcd", salt="tenant"))}
    apply(view, AllCleared(), stored([1, 2, 3], "abcdef", extra_keys=[None, [["img", 1]], None]))
    image = token_block_keys([ord(letter) for letter in "cdef"], 2, with_ids(plain[0], ["img"]))
    assert sink.keys == {(3, GPU): {plain[0], *image}}
    apply(view, AllCleared(), stored([1, 2], "abcd", extra_keys=[[("cache_salt", "tenant"), ("lora", "x", "/x")], []]))
    assert sink.keys == {(3, GPU): set(keys("abcd", salt="tenant"))}
    apply(view, AllCleared(), stored([1], "ab"), stored([2], "cd", 1, extra_keys=[["bare-image"]]))
    assert sink.keys == {(3, GPU): {plain[0], *token_block_keys([99, 100], 2, with_ids(plain[0], ["bare-image"]))}}


def test_full_attention_is_indexed_and_sliding_windows_are_not(view: PodView, sink: DictSink) -> None:
    window: Any = {"kind": "sliding_window", "sliding_window": 4, "group": 0}
    apply(view, stored([1, 2], "abcd", **window))
    assert sink.tiers(3) == {GPU: 2}  # the best there is, so far
    apply(view, stored([1], "ab", kind="full_attention", group=1))
    assert sink.keys == {(3, GPU): set(keys("ab"))}
    apply(view, BlockRemoved([1, 2], group=0), stored([2], "cd", 1, kind="full_attention", group=1))
    assert sink.keys == {(3, GPU): set(keys("abcd"))}
    assert view.live == {("GPU", 1): 2}


def test_of_sliding_windows_alone_the_widest_counts(view: PodView, sink: DictSink) -> None:
    for group, width, text in ((0, 4, "ab"), (1, 8, "cd"), (2, 4, "ef")):
        apply(view, stored([group], text, kind="sliding_window", sliding_window=width, group=group))
    assert sink.keys == {(3, GPU): set(keys("cd"))}


def test_one_key_of_two_groups_lives_until_both_are_gone(view: PodView, sink: DictSink) -> None:
    apply(view, stored([1], "ab", group=0), stored([1], "ab", group=1), stored([2], "cd", 1, group=1))
    assert sink.keys == {(3, GPU): set(keys("abcd"))}
    apply(view, BlockRemoved([1], group=0))
    assert sink.tiers(3) == {GPU: 2}
    apply(view, BlockRemoved([1], group=1))
    assert sink.tiers(3) == {GPU: 1}


class Engine(RuleBasedStateMachine):
    """Random events against counting by hand: hashes are texts' own, so the truth needs no chain of keys."""

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sink = DictSink()
        self.view = PodView(self.sink, 0, MODEL, max_copies=None)
        self.counts: dict[str, Counter[int]] = {"GPU": Counter(), "CPU": Counter()}
        self.texts: dict[int, str] = {}

    def hashes(self, text: str) -> list[int]:
        found = [int.from_bytes(text[: at + 2].encode()) for at in range(0, len(text), 2)]
        self.texts.update({value: text[: 2 * at + 2] for at, value in enumerate(found)})
        return found

    @rule(text=st.text("ab", min_size=2, max_size=8).filter(lambda text: len(text) % 2 == 0), skip=st.integers(0, 3))
    def store(self, text: str, skip: int) -> None:
        skip = min(skip, len(text) // 2 - 1)
        hashes = self.hashes(text)
        parent = hashes[skip - 1] if skip else None
        apply(self.view, stored(hashes[skip:], text[2 * skip :], parent))
        self.counts["GPU"].update(hashes[skip:])

    @rule(medium=st.sampled_from(["GPU", "CPU"]))
    def remove(self, medium: str) -> None:
        live = sorted(self.counts[medium])
        if live:
            value = self.rng.choice(live)
            apply(self.view, BlockRemoved([value], medium))
            self.counts[medium][value] -= 1
            self.counts[medium] += Counter()

    @rule()
    def offload(self) -> None:
        live = sorted(self.counts["GPU"])
        if live:
            value = self.rng.choice(live)
            apply(self.view, BlockStored([value], medium="CPU"))
            self.counts["CPU"][value] += 1

    @rule(really=st.booleans())
    def clear(self, really: bool) -> None:
        if really:
            apply(self.view, AllCleared())
            self.counts = {"GPU": Counter(), "CPU": Counter()}

    @invariant()
    def view_is_exact(self) -> None:
        if not hasattr(self, "counts"):
            return
        for medium, tier in (("GPU", GPU), ("CPU", CPU)):
            live = set(self.counts[medium])
            assert self.view.hashes(medium) == live
            true = {keys(self.texts[value])[-1] for value in live}
            held = self.sink.keys.get((0, tier), set())
            assert held <= true, "credit for what is not there"
        waiting = {hashed for _, hashed in self.view._orphans}
        missing = {value for value in self.counts["GPU"] if self.view._groups[0].key(value) is None}
        assert missing == waiting & set(self.counts["GPU"])
        assert {parent for _, parent in self.view._waiting} & set(self.counts["GPU"]) <= missing


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
