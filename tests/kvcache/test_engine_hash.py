from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.errors import BadRequestError
from pointsman.kvcache.engine_hash import (
    canonical_cbor,
    event_hash,
    none_hash,
    prompt_hashes,
    sglang_event_hash,
    sglang_hashes,
    vllm_hashes,
)

CAPTURES = Path(__file__).parents[1] / "data/captures"
VECTORS = json.loads((CAPTURES / "hash_vectors.json").read_text())
REQUESTS = [json.loads(line) for line in (CAPTURES / "requests.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "vector", VECTORS["vllm"], ids=lambda v: f"{v['algo']}-{v['PYTHONHASHSEED']}-{v['block_size']}-{v['case']}"
)
def test_vllm_vectors(vector: dict[str, Any]) -> None:
    algorithm, seed = vector["algo"], vector["PYTHONHASHSEED"]
    digests = vllm_hashes(
        VECTORS["tokens"], vector["block_size"], algorithm=algorithm, seed=seed, extra_keys=vector["extra_keys"]
    )[: len(vector["full"])]
    assert [digest.hex() for digest in digests] == vector["full"]
    assert [event_hash(digest) for digest in digests] == vector["int64"]
    assert none_hash(algorithm, seed).hex().startswith(vector["none_hash"][:16])


@pytest.mark.parametrize("vector", VECTORS["sglang_0.5.6+"], ids=lambda v: str(v["page_size"]))
def test_sglang_vectors(vector: dict[str, Any]) -> None:
    digests = sglang_hashes(VECTORS["tokens"], vector["page_size"])[: len(vector["full"])]
    assert [digest.hex() for digest in digests] == vector["full"]
    assert [sglang_event_hash(digest) for digest in digests] == vector["int64"]


def test_a_salt_changes_sglangs_pages() -> None:
    assert sglang_hashes([1, 2], 1, cache_salt="a") != sglang_hashes([1, 2], 1)


def test_real_requests_without_adapter_or_salt() -> None:
    checked = 0
    for expected, request in zip(VECTORS["requests"], REQUESTS, strict=True):
        body = request["request"]
        if body["model"] != "tiny" or "cache_salt" in body:
            continue
        tokens = request["prompt_token_ids"] + request["output_token_ids"][:-1]
        seed = None if expected["seed"] == "vllm-none-hash" else expected["seed"]
        hashes = prompt_hashes([tokens], expected["block_size"], algorithm=expected["algo"], seed=seed)
        assert hashes == [expected["int64"]]
        checked += 1
    assert checked > 35


def test_canonical_cbor() -> None:
    value = [None, True, 0, 23, 24, 256, 65_536, 2**32, -1, -25, "é", b"\x00", (1, [2])]
    assert canonical_cbor(value).hex() == "8df6f500171818190100" + "1a00010000" + "1b0000000100000000" + (
        "20381862c3a941008201" + "8102"
    )
    with pytest.raises(TypeError):
        canonical_cbor(1.5)
    with pytest.raises(OverflowError):
        canonical_cbor(2**64)


def test_what_cannot_be_hashed_is_said() -> None:
    with pytest.raises(BadRequestError, match="md5"):
        prompt_hashes([[1]], 1, algorithm="md5")
    with pytest.raises(BadRequestError, match="block size"):
        prompt_hashes([[1]], 0)
    with pytest.raises(BadRequestError, match="PYTHONHASHSEED"):
        prompt_hashes([[1]], 1, algorithm="xxhash")
    assert prompt_hashes([[1, 2, 3], []], 2, algorithm="sglang")[1] == []
