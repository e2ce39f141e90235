"""The block hashes that engines compute, recomputed: vLLM's four algorithms and SGLang's pages.

The index does not need them (it has keys of its own); the doctor and ``pointsman index hash`` do, to tell whether two
engines, or an engine and its events, agree.
"""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable, Sequence
from hashlib import sha256
from struct import pack
from typing import Any, Literal, get_args

from xxhash import xxh3_128_digest

from pointsman.errors import BadRequestError

HashAlgorithm = Literal["sha256", "sha256_cbor", "xxhash", "xxhash_cbor"]
ALGORITHMS: tuple[HashAlgorithm, ...] = get_args(HashAlgorithm)
DEFAULT_SEED = "vllm-none-hash"
"""What vLLM from 0.29 on seeds the sha256 algorithms with when PYTHONHASHSEED is not set."""

_SGLANG_SALT = b"sglang-cache-salt-v1\0"


def vllm_hashes(
    token_ids: Sequence[int],
    block_size: int,
    *,
    algorithm: HashAlgorithm = "sha256",
    seed: str | None = None,
    extra_keys: Sequence[Sequence[Any] | None] = (),
) -> list[bytes]:
    """Digests of the full blocks of a prompt, as vLLM 0.12 and later chain them.

    Args:
        token_ids: the prompt.
        block_size: tokens per block.
        algorithm: value of ``--prefix-caching-hash-algo``.
        seed: PYTHONHASHSEED of the engine; None for vLLM's constant (sha256 algorithms of 0.29 and later only; before,
            and for the xxhash ones, the engine draws a random seed and nothing can be recomputed).
        extra_keys: by block, None or what vLLM hashes with the tokens: tagged tuples since 0.31, bare values before.
    """
    digest = _digest_of(algorithm)
    previous = none_hash(algorithm, seed)
    digests = []
    for block in range(len(token_ids) // block_size):
        tokens = tuple(token_ids[block * block_size : (block + 1) * block_size])
        extra = extra_keys[block] if block < len(extra_keys) else None
        previous = digest((previous, tokens, None if extra is None else _as_tuples(extra)))
        digests.append(previous)
    return digests


def none_hash(algorithm: HashAlgorithm, seed: str | None) -> bytes:
    """What a chain of vLLM's starts from."""
    return _digest_of(algorithm)(DEFAULT_SEED if seed is None else seed)


def event_hash(digest: bytes) -> int:
    """A vLLM digest as its events show it: the last eight bytes, without sign."""
    return int.from_bytes(digest[-8:], "big")


def sglang_hashes(token_ids: Sequence[int], page_size: int, *, cache_salt: str | None = None) -> list[bytes]:
    """Digests of a prompt's pages as SGLang from 0.5.6 on chains them."""
    previous = b"" if cache_salt is None else sha256(_SGLANG_SALT + cache_salt.encode()).digest()
    digests = []
    for start in range(0, len(token_ids) - page_size + 1, page_size):
        page = array("I", token_ids[start : start + page_size]).tobytes()  # little-endian where engines run
        previous = sha256(previous + page).digest()
        digests.append(previous)
    return digests


def sglang_event_hash(digest: bytes) -> int:
    """An SGLang digest as its events show it: the first eight bytes, with sign."""
    return int.from_bytes(digest[:8], "big", signed=True)


def prompt_hashes(
    prompts: Sequence[Sequence[int]], block_size: int, *, algorithm: str = "sha256", seed: str | None = None
) -> list[list[int]]:
    """Event hashes of each prompt; ``algorithm`` is one of vLLM's four or ``sglang``.

    Raises:
        BadRequestError: if there is no such algorithm, or the block size makes no sense.
    """
    if block_size < 1:
        raise BadRequestError(f"the block size must be above 0, got {block_size}")
    if algorithm == "sglang":
        return [[sglang_event_hash(digest) for digest in sglang_hashes(prompt, block_size)] for prompt in prompts]
    if algorithm not in ALGORITHMS:
        raise BadRequestError(f"no hash algorithm {algorithm!r}: choose one of {', '.join(ALGORITHMS)}, sglang")
    if algorithm.startswith("xxhash") and seed is None:
        raise BadRequestError(f"{algorithm} needs a seed: without PYTHONHASHSEED, vLLM draws a random one")
    return [
        [event_hash(digest) for digest in vllm_hashes(prompt, block_size, algorithm=algorithm, seed=seed)]
        for prompt in prompts
    ]


def canonical_cbor(value: Any) -> bytes:
    """CBOR (RFC 8949, core deterministic encoding) of what vLLM hashes: None, bool, int, float-free lists, text, bytes.

    Raises:
        TypeError: for anything else.
        OverflowError: for integers beyond 64 bits.
    """
    out = bytearray()
    _append_cbor(out, value)
    return bytes(out)


def _append_cbor(out: bytearray, value: Any) -> None:
    if value is None or isinstance(value, bool):
        out.append(0xF6 if value is None else 0xF5 if value else 0xF4)
    elif isinstance(value, int):
        _append_head(out, 0x00, value) if value >= 0 else _append_head(out, 0x20, -1 - value)
    elif isinstance(value, bytes | bytearray):
        _append_head(out, 0x40, len(value))
        out += value
    elif isinstance(value, str):
        encoded = value.encode()
        _append_head(out, 0x60, len(encoded))
        out += encoded
    elif isinstance(value, list | tuple):
        _append_head(out, 0x80, len(value))
        for item in value:
            _append_cbor(out, item)
    else:
        raise TypeError(f"vLLM hashes no {type(value).__name__}")


def _append_head(out: bytearray, major: int, number: int) -> None:
    """Major type and number in as few bytes as it takes."""
    if number < 24:
        out.append(major | number)
    elif number < 2**8:
        out += pack(">BB", major | 24, number)
    elif number < 2**16:
        out += pack(">BH", major | 25, number)
    elif number < 2**32:
        out += pack(">BI", major | 26, number)
    elif number < 2**64:
        out += pack(">BQ", major | 27, number)
    else:
        raise OverflowError("an integer beyond 64 bits")


def _as_tuples(value: Any) -> Any:
    """Extra keys of vLLM are tuples all the way down; JSON and MessagePack make lists of them."""
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


def _digest_of(algorithm: HashAlgorithm) -> Callable[[Any], bytes]:
    encode = canonical_cbor if algorithm.endswith("_cbor") else _pickled
    if algorithm.startswith("sha256"):
        return lambda value: sha256(encode(value)).digest()
    return lambda value: xxh3_128_digest(encode(value))
