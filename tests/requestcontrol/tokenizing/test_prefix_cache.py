from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from pointsman.requestcontrol.tokenizing.prefix_cache import ENTRY_BYTES, PieceCache


def ids(count: int) -> array[int]:
    return array("I", range(count))


def test_remembers() -> None:
    cache = PieceCache(10_000)
    cache.put([("a", ids(1)), ("b", ids(2)), ("a", ids(5))])
    assert cache.get(["b", "c", "a", "a"]) == [ids(2), None, ids(1), ids(1)]
    assert (cache.hits, cache.misses, len(cache)) == (3, 1, 2)


def test_what_was_used_longest_ago_goes() -> None:
    cache = PieceCache(2 * ENTRY_BYTES + 50)
    cache.put([("a", ids(1)), ("b", ids(1))])
    cache.get(["a"])
    cache.put([("c", ids(1))])
    assert cache.get(["a", "b", "c"]) == [ids(1), None, ids(1)]


def test_what_is_larger_than_all_is_not_kept() -> None:
    cache = PieceCache(1000)
    cache.put([("a", ids(1)), ("b", ids(5000))])
    assert cache.get(["a", "b"]) == [ids(1), None]


@given(st.lists(st.tuples(st.text(max_size=30), st.integers(0, 60)), max_size=60))
def test_never_over_its_bound(entries: list[tuple[str, int]]) -> None:
    cache = PieceCache(2000)
    for text, count in entries:
        cache.put([(text, ids(count))])
        assert 0 <= cache.bytes <= 2000
    assert (cache.bytes == 0) == (len(cache) == 0)
