"""The compiled helper: equal to its Python twin, and not to be broken by arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.kvcache import _native, _pure

speedups = pytest.importorskip("pointsman._speedups", exc_type=ImportError)

SEED = st.integers(0, 2**64 - 1)


@given(st.binary(max_size=1200), st.integers(1, 700), SEED, st.none() | st.integers(-1, 30))
def test_equal_keys_of_bytes(data: bytes, block: int, seed: int, limit: int | None) -> None:
    assert speedups.chain_bytes(data, block, seed, limit) == _pure.chain_bytes(data, block, seed, limit)


def test_equal_hash_of_every_length() -> None:
    rng = Random(1)
    data = rng.randbytes(2100)
    for size in range(1, 2100):
        seed = rng.getrandbits(64)
        assert speedups.chain_bytes(data, size, seed, 1) == _pure.chain_bytes(data, size, seed, 1)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=200), st.integers(1, 70), SEED)
def test_equal_keys_of_tokens(tokens: list[int], block: int, parent: int) -> None:
    keys = _pure.chain_tokens(tokens, block, parent)
    for form in (tokens, tuple(tokens), array("I", tokens)):
        assert speedups.chain_tokens(form, block, parent) == keys == _pure.chain_tokens(form, block, parent)


WORD = st.sampled_from([0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1])


def outcome(twin: Any, data: bytes) -> Any:
    try:
        return twin.unpack_tokens(data)
    except ValueError:
        return "refused"


@given(st.lists(WORD | st.integers(0, 2**32 - 1), max_size=40), st.binary(max_size=3))
def test_equal_tokens_of_messagepack(tokens: list[int], more: bytes) -> None:
    data = msgspec.msgpack.encode(tokens)
    assert speedups.unpack_tokens(data) == _pure.unpack_tokens(memoryview(data)) == array("I", tokens).tobytes()
    for wrong in (data + more, data[:-1], more + data, more):
        assert outcome(speedups, wrong) == outcome(_pure, wrong)


@pytest.mark.parametrize(
    "wrong", [b"", b"\x91\xff", b"\x91\xd0\xff", b"\xdd\xff\xff\xff\xff", b"\xdc\x00", b"\xc0", b"\x91\xa1a"]
)
def test_messagepack_that_is_no_tokens_is_refused(wrong: bytes) -> None:
    assert outcome(speedups, wrong) == outcome(_pure, wrong) == "refused"
    for huge in (2**32, 2**64 - 1):
        data = msgspec.msgpack.encode([huge])
        assert outcome(speedups, data) == outcome(_pure, data) == "refused"


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_many_tokens(count: int) -> None:
    data = msgspec.msgpack.encode(list(range(count)))
    assert speedups.unpack_tokens(data) == array("I", range(count)).tobytes()


GARBAGE: list[Any] = [None, "12", b"12345678", 1.5, {}, {1}, object(), [1.5], ["a"], [None], [-1], [2**64], (2**70,)]
GARBAGE += [[[]], array("d", [1.0]), array("b", [1]), array("q", [1]), memoryview(b"12345678"), iter([1]), range(3), 7]
REFUSED = (TypeError, ValueError, OverflowError)


@pytest.mark.parametrize("twin", [_pure, speedups], ids=["pure", "compiled"])
@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda value: str(value)[:20])
def test_garbage_is_refused(twin: Any, garbage: Any) -> None:
    table = twin.BlockTable()
    calls: list[Callable[[], Any]] = [
        lambda: table.store(0, 0, garbage),
        lambda: table.discard(0, 0, garbage),
        lambda: table.match(garbage),
        lambda: table.touch(garbage),
        lambda: twin.chain_tokens(garbage, 4, 0),
    ]
    for call in calls:
        with pytest.raises(REFUSED):
            call()
    assert len(table) == 0


@pytest.mark.parametrize("twin", [_pure, speedups], ids=["pure", "compiled"])
def test_numbers_out_of_range_are_refused(twin: Any) -> None:
    for block in (0, -1):
        with pytest.raises(ValueError, match="unit"):
            twin.chain_bytes(b"abcd", block, 0)
        with pytest.raises(ValueError, match="unit"):
            twin.chain_tokens([1], block, 0)
    for seed in (-1, 2**64):
        with pytest.raises(OverflowError):
            twin.chain_bytes(b"abcd", 1, seed)
    with pytest.raises(OverflowError):
        twin.chain_tokens([2**32], 8, 0)
    with pytest.raises(TypeError):
        twin.chain_bytes("abcd", 1, 0)
    with pytest.raises(ValueError, match="negative"):
        twin.BlockTable(-1)
    for place in ((-1, 0), (65_536, 0), (0, 3), (0, -1)):
        with pytest.raises(ValueError, match="within"):
            twin.BlockTable().store(*place, [1])


def garbage(rng: Random) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: rng.choice(GARBAGE),
        lambda: rng.randrange(-3, 6),
        lambda: rng.choice([-1, 0, 63, 64, 700, 2**31, -(2**31), 2**63, 2**64, 10**30]),
        lambda: [rng.getrandbits(rng.choice([2, 4, 64, 65])) for _ in range(rng.randrange(30))],
        lambda: array("Q", [rng.getrandbits(3) for _ in range(rng.randrange(8))]),
        lambda: rng.randbytes(rng.randrange(40)),
    ]
    return rng.choice(kinds)()


def test_random_calls_are_answered_or_refused() -> None:
    rng, tables = Random(5), [speedups.BlockTable(bound) for bound in (0, 1, 7, 200)]
    names = ("store", "discard", "clear", "touch", "match", "counts", "keys_of")
    refused = 0
    for _ in range(100_000):
        name, arguments = rng.choice(names), [garbage(rng) for _ in range(rng.choice([0, 1, 2, 3, 3, 3, 4]))]
        try:
            getattr(rng.choice(tables), name)(*arguments)
        except REFUSED:
            refused += 1
    assert 10_000 < refused < 99_000
    for _ in range(20_000):
        function = rng.choice([speedups.chain_bytes, speedups.chain_tokens])
        try:
            function(*[garbage(rng) for _ in range(rng.choice([2, 3, 3, 4]))])
        except REFUSED:
            refused += 1


class Meddler:
    """A number that changes the list it is in, and the table, while it is being read."""

    def __init__(self, items: list[Any], table: Any) -> None:
        self.items, self.table = items, table

    def __index__(self) -> int:
        self.items.clear()
        self.table.clear(0)
        return 1


def test_a_list_that_changes_under_our_hands() -> None:
    table = speedups.BlockTable()
    table.store(0, 0, [1, 2, 3])
    items: list[Any] = []
    items += [1, Meddler(items, table), 3]
    with pytest.raises(IndexError):
        table.store(0, 0, items)
    assert len(table) == 0


@given(st.integers(0, 2**32 - 1))
def test_equal_after_thousands_of_changes(seed: int) -> None:
    rng = Random(seed)
    bound = rng.choice([0, 50, 300])
    mine, twin = speedups.BlockTable(bound), _pure.BlockTable(bound)
    space = [rng.getrandbits(64) for _ in range(rng.choice([40, 1000]))]
    for _ in range(60):
        slot, tier, start = rng.choice([0, 1, 2, 70, 300]), rng.randrange(3), rng.randrange(len(space))
        keys = space[start : start + rng.randrange(60)]
        calls: list[tuple[str, tuple[Any, ...]]] = [("store", (slot, tier, keys))] * 4
        calls += [("discard", (slot, tier, keys))] * 2 + [("match", (keys,)), ("touch", (keys,)), ("counts", (slot,))]
        calls += [("clear", (slot, rng.randrange(-1, 3)))]
        name, arguments = rng.choice(calls)
        assert getattr(mine, name)(*arguments) == getattr(twin, name)(*arguments)
        mine.sweep()  # what a cleared slot held is taken away by and by, and counts until then
        assert (len(mine), mine.evicted) == (len(twin), twin.evicted)
    for slot in (0, 1, 2, 70, 300):
        assert sorted(mine.keys_of(slot)) == sorted(twin.keys_of(slot))


def test_memory_follows_what_is_held() -> None:
    table = speedups.BlockTable()
    keys = [Random(3).getrandbits(64) for _ in range(50_000)] + list(range(50_000))
    table.store(0, 0, keys)
    full = table.nbytes
    assert full < 64 * len(table)
    for slot in range(1, 100):
        table.store(slot, 0, keys[:1000])
    assert table.nbytes < full + 2_000_000, "a prefix that all slots hold is one set, not one per block"
    for _ in range(50):  # the log of a slot does not grow with what comes and goes
        table.discard(0, 0, keys[:10_000])
        table.store(0, 0, keys[:10_000])
    assert table.nbytes < full + 4_000_000


def test_python_can_be_asked_for() -> None:
    code = "from pointsman.kvcache import _native; print(_native.BlockTable.__module__, _native.description())"
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "POINTSMAN_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.split()[0] == "pointsman.kvcache._pure"
    assert "POINTSMAN_PURE" in asked.stdout


def test_a_build_of_another_revision_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POINTSMAN_PURE", raising=False)
    assert not _native._why_not()
    monkeypatch.setattr(speedups, "REVISION", 0)
    assert "revision 0" in _native._why_not()
