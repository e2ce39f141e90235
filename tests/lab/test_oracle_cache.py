"""Ideal caches on trees of prompts, against the same caches written block by block."""

from __future__ import annotations

import itertools
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pointsman.lab.oracle_cache import Step, belady_hits, lru_hits, unlimited_hits
from pointsman.lab.oracle_tree import PrefixTree

# A prompt is a string over two letters; the key of its n-th block stands for its first n letters.
PROMPTS = st.lists(st.text("ab", max_size=6), min_size=1, max_size=12)


def keys(prompt: str) -> array[int]:
    return array("Q", [int("1" + prompt[:n].replace("a", "0").replace("b", "1"), 2) for n in range(1, len(prompt) + 1)])


def planted(prompts: Sequence[str]) -> tuple[PrefixTree, list[Step]]:
    tree = PrefixTree()
    ends = [tree.insert(keys(prompt)) for prompt in prompts]
    return tree, [Step(end, end) for end in ends]


def leading(prompt: str, cached: set[str]) -> int:
    beginnings = [prompt[:n] for n in range(1, len(prompt) + 1)]
    return sum(1 for _ in itertools.takewhile(lambda one: one in cached, beginnings))


@given(PROMPTS)
def test_a_prompt_is_the_path_to_its_node(prompts: list[str]) -> None:
    tree, steps = planted(prompts)
    for prompt, step in zip(prompts, steps, strict=True):
        assert sum(tree.size[node] for node in tree.path(step.end)) == len(prompt)
    assert len(tree) <= 2 * len(prompts) + 1


@given(PROMPTS, st.integers(0, 20))
def test_lru_is_an_lru_of_blocks(prompts: list[str], capacity: int) -> None:
    tree, steps = planted(prompts)
    lru: OrderedDict[str, None] = OrderedDict()
    expected = []
    for prompt in prompts:
        expected.append(leading(prompt, set(lru)))
        for n in range(len(prompt), 0, -1):
            lru[prompt[:n]] = None
            lru.move_to_end(prompt[:n])
        while len(lru) > capacity:
            lru.popitem(last=False)
    assert lru_hits(tree, steps, capacity) == expected


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=5), st.integers(0, 5))
def test_belady_finds_as_much_as_the_best_of_all_schedules(prompts: list[str], capacity: int) -> None:
    tree, steps = planted(prompts)
    assert sum(belady_hits(tree, steps, capacity)) == best_schedule(prompts, capacity)


def best_schedule(prompts: Sequence[str], capacity: int) -> int:
    """Most hits over all choices of what to keep after each prompt, by trying them all."""
    states: dict[frozenset[str], int] = {frozenset(): 0}
    for prompt in prompts:
        following: dict[frozenset[str], int] = {}
        for held, hits in states.items():
            total = hits + leading(prompt, set(held))
            pool = sorted(held | {prompt[:n] for n in range(1, len(prompt) + 1)})
            for kept in itertools.combinations(pool, min(capacity, len(pool))):
                key = frozenset(kept)
                following[key] = max(total, following.get(key, 0))
        states = following
    return max(states.values())


@given(PROMPTS, st.integers(0, 20))
def test_foreknowledge_is_between_the_lru_and_no_limit(prompts: list[str], capacity: int) -> None:
    tree, steps = planted(prompts)
    lru, best = sum(lru_hits(tree, steps, capacity)), sum(belady_hits(tree, steps, capacity))
    assert lru <= best <= sum(unlimited_hits(tree, steps))
    assert unlimited_hits(tree, steps) == lru_hits(tree, steps, 1000)


def test_what_a_prompt_leaves_beyond_its_end_is_found_by_the_next() -> None:
    tree = PrefixTree()
    first, second = tree.insert(keys("ab")), tree.insert(keys("abba"))
    known = tree.reach(first, keys("abbb")[2:])  # an answer of which the next prompt repeats one block
    assert sum(tree.size[node] for node in tree.path(known)) == 3
    steps = [Step(first, known), Step(second, second)]
    assert unlimited_hits(tree, steps) == lru_hits(tree, steps, 4) == belady_hits(tree, steps, 4) == [0, 3]
    assert tree.reach(second, keys("abbaa")[4:]) == second


def test_a_small_lru_that_turns_over_finds_nothing_where_foreknowledge_does() -> None:
    tree, steps = planted(["aa", "bb", "aa", "bb"])
    assert lru_hits(tree, steps, 2) == [0, 0, 0, 0]
    assert sum(belady_hits(tree, steps, 2)) == 2
