"""Stack distances against caches that are really simulated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.lab import reuse
from pointsman.lab.reuse import Blocks, Reuse

SIZE = 16


def chained(prompt: Sequence[int]) -> list[int]:
    return [hash(tuple(prompt[: end + 1])) for end in range(len(prompt))]


def simulated(prompts: Sequence[Sequence[int]], capacity: int) -> int:
    """Blocks found in an LRU of so many blocks, leading ones of a prompt kept longest."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for prompt in prompts:
        keys = chained(prompt)
        for key in keys:
            if key not in cache:
                break
            hits += 1
        for key in reversed(keys):
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


PROMPTS = st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=60)


@given(PROMPTS)
def test_hits_are_those_of_a_cache_of_every_size(prompts: list[list[int]]) -> None:
    sizes = [1, 2, 3, 5, 8, 13, 21, 34, 1000]
    found = Reuse([size * SIZE for size in sizes])
    for prompt in prompts:
        found.add(0.0, len(prompt) * SIZE, Blocks(chained(prompt), SIZE, SIZE))
    report = found.report()
    total = sum(map(len, prompts)) * SIZE
    assert report.prompt_tokens == total
    for size in sizes:
        assert report.lru[str(size * SIZE)] * total == pytest.approx(simulated(prompts, size) * SIZE)
    assert report.hit_tokens == simulated(prompts, 10**9) * SIZE
    assert report.unique_tokens == SIZE * len({key for prompt in prompts for key in chained(prompt)})


def test_the_last_block_counts_what_it_holds() -> None:
    found = Reuse([1000])
    for at in (0.0, 8.0):
        found.add(at, 70, Blocks([1, 2], 64, 6))
    report = found.report()
    assert (report.hit_tokens, report.unique_tokens, report.hit_share) == (70, 70, 0.5)
    assert report.distance_s["p50"] == pytest.approx(8.0, rel=0.02)
    assert report.distance_tokens["p95"] == pytest.approx(64, rel=0.1)


def test_without_anything() -> None:
    report = Reuse([5]).report()
    assert (report.hit_share, report.lru, report.distance_s["p50"]) == (0.0, {"5": 0.0}, None)


def test_it_stops_where_memory_would_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "MOST_BLOCKS", 10)
    found = Reuse([100])
    for number in range(100):
        found.add(0.0, 16, Blocks([number], 16, 16))
    assert found.full
    assert found.report().requests == 11
