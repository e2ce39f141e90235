from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.datalayer.sglang_loads import Loads, parse_loads


def rank(**fields: Any) -> dict[str, Any]:
    return {
        "dp_rank": 0,
        "num_running_reqs": 3,
        "num_waiting_reqs": 2,
        "token_usage": 0.5,
        "max_total_num_tokens": 100_000,
        "max_running_requests": 64,
        "gen_throughput": 12.5,
    } | fields


def encode(*ranks: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"timestamp": "x", "loads": ranks, "aggregate": {}})


def test_one_rank() -> None:
    assert parse_loads(encode(rank())) == Loads(waiting=2, running=3, kv_usage=0.5, max_num_seqs=64, ranks=1)


def test_ranks_together() -> None:
    found = parse_loads(encode(rank(), rank(num_waiting_reqs=8, token_usage=1.01)))
    assert found == Loads(waiting=10, running=6, kv_usage=0.75, max_num_seqs=128, ranks=2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        encode(),  # the shared memory could not be opened
        encode(rank(max_total_num_tokens=0)),  # no batch has run yet
        encode(rank(), rank(max_total_num_tokens=0)),
        encode(rank(num_waiting_reqs=-1)),
        encode({"dp_rank": 0}),
        b"[" * 100_000,
    ],
)
def test_of_no_use(body: bytes) -> None:
    assert parse_loads(body) is None


@given(st.binary())
def test_whatever_comes(body: bytes) -> None:
    parse_loads(body)
