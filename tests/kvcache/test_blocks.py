from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.kvcache.blocks import (
    block_keys,
    chain_seed,
    credited_blocks,
    matched_tokens,
    pack_token_ids,
    token_block_keys,
)


def test_only_full_blocks_count() -> None:
    assert [len(block_keys(b"x" * size, 20, 1)) for size in (0, 19, 20, 39, 40)] == [0, 0, 1, 1, 2]


def test_limit_bounds_the_number_of_keys() -> None:
    whole = block_keys(b"abcd" * 10, 4, 7)
    assert len(whole) == 10
    assert block_keys(b"abcd" * 10, 4, 7, 3) == whole[:3]
    assert block_keys(b"abcd" * 10, 4, 7, 0) == []


def test_keys_are_chained() -> None:
    keys = block_keys(b"same" * 3, 4, 7)
    assert len(set(keys)) == 3, "equal bytes at other places have other keys"
    assert block_keys(b"samediff", 4, 7)[0] == keys[0]
    assert block_keys(b"diffsame", 4, 7)[1] != keys[1]
    assert block_keys(b"same", 4, 8) != keys[:1], "another seed is another chain"


def test_keys_are_stable() -> None:
    # Every replica of the picker, on any machine, must find the same keys.
    seed = chain_seed("m", "")
    assert seed == 0x36EC40D4CAB032CF
    assert block_keys(b"abcdefgh", 4, seed) == [0x6D9F10F4B522CFBE, 0x69C07248699269E4]


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(1, 32))
def test_common_prefix_means_common_keys(head: bytes, tail: bytes, block: int) -> None:
    short, long = block_keys(head, block, 3), block_keys(head + tail, block, 3)
    assert long[: len(short)] == short


def test_seed_keeps_parts_apart() -> None:
    assert len({chain_seed("ab", "c"), chain_seed("a", "bc"), chain_seed("abc"), chain_seed("abc", "")}) == 4
    assert isinstance(chain_seed("\ud800"), int)


def test_packed_token_ids() -> None:
    assert pack_token_ids([1, 258]) == b"\x01\x00\x00\x00\x02\x01\x00\x00"
    with pytest.raises(OverflowError):
        pack_token_ids([2**32])


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.integers(1, 9))
def test_keys_of_tokens_are_those_of_their_packed_bytes(tokens: list[int], block: int) -> None:
    keys = token_block_keys(tokens, block, 7)
    assert keys == block_keys(pack_token_ids(tokens), 4 * block, 7)
    assert keys == token_block_keys(array("I", tokens), block, 7) == token_block_keys(tuple(tokens), block, 7)
    cut = len(keys) // 2
    if cut:
        assert keys[cut:] == token_block_keys(tokens[cut * block :], block, keys[cut - 1]), "a chain goes on anywhere"


def test_keys_of_tokens_are_stable() -> None:
    assert token_block_keys([1, 2, 3, 4], 2, chain_seed("m", "")) == [0x49A5C6EBACFD1D66, 0xD9B2D5D48F4F9540]


def test_tokens_out_of_range_are_refused() -> None:
    for tokens in ([-1], [2**32]):
        with pytest.raises(OverflowError):
            token_block_keys(tokens, 1, 0)


def test_partial_credit_is_never_more_than_held() -> None:
    assert matched_tokens(3, 16, 100) == 48
    assert matched_tokens(3, 16, 40) == 40
    assert credited_blocks(3, 16, 64) == 0
    assert credited_blocks(9, 16, 64) == 2
    assert credited_blocks(2, 64, 16) == 8
