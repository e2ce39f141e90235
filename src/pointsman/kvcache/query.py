"""What an index is asked from outside: how much of a prompt does each of these pods hold, and how sure is that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from pointsman.errors import BadRequestError
from pointsman.kvcache.blocks import credited_blocks, token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.kv_index import KVIndex, MatchResult

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_HASHES = 131_072
"""A prompt of two million tokens in blocks of 16."""
MAX_TOKENS = 2_097_152
MAX_PODS = 4096
MAX_NAME = 512
MAX_BLOCK_SIZE = 65_536

CHAIN_MODEL = ""
"""What chains start from, here and in the picker: not the model's name, as an engine serves one base model under any
number of names. Which pods serve a model is known apart from the keys."""

_KEY = re.compile(r"(0[xX])?[0-9a-fA-F]{1,16}")
_PLACE = re.compile(r"`\$\.?([^`]*)`$")
_MISSING = re.compile(r"field `([^`]*)`")

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class BadQueryError(BadRequestError):
    """A body that cannot be answered; ``field`` says where it is wrong, empty when it is no JSON object at all."""

    reason = "bad-query"

    def __init__(self, message: str, field: str = "") -> None:
        self.field = field
        super().__init__(message)


class Place(msgspec.Struct, frozen=True):
    """One holder of blocks: a slot of the index and what is known of it. A pod may have several."""

    slot: int
    rank: int
    models: frozenset[str]
    """Names it answers to; empty when nobody said."""
    block_size: int
    """Tokens per block; 0 until an event told."""
    confidence: float


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query: ``prompt_hash``, or ``model`` with ``token_ids``. Those with a prompt become one of the latter kind."""

    pods: Annotated[list[_Name], msgspec.Meta(max_length=MAX_PODS)] | None = None
    """Of interest; None for all that are known."""
    prompt_hash: Annotated[list[int | str], msgspec.Meta(max_length=MAX_HASHES)] | None = None
    """Our own block keys in the order of the prompt, as numbers or hexadecimal text."""
    model: _Name | None = None
    """Pods that serve others hold nothing of it."""
    token_ids: Annotated[list[_TokenId], msgspec.Meta(max_length=MAX_TOKENS)] | None = None
    adapter: _Name | None = None
    salt: _Name | None = None
    block_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_SIZE)] | None = None
    """Blocks to answer in, when others than the pod's own are wanted; parts of them do not count."""


class Tiers(msgspec.Struct, frozen=True):
    """Matched blocks of the pod by the best place that holds them."""

    gpu: int = 0
    cpu: int = 0
    disk: int = 0


class PodAnswer(msgspec.Struct, frozen=True):
    """What one pod holds of the prompt; of several ranks, the one that holds most."""

    hit_rate: float = 0.0
    """Share of the prompt's whole blocks."""
    matched_blocks: int = 0
    total_blocks: int = 0
    matched_tokens: int = 0
    block_size: int = 0
    blocks: Tiers = Tiers()
    confidence: float = 0.0
    """0 to 1; 0 for a pod that is not known, whose stream is down, or of another model."""
    rank: int = 0


Places = Callable[[str], Sequence[Place]]
"""Holders by pod; none for a pod that is not known."""

_decoder = msgspec.json.Decoder(Query)


def parse_query(body: bytes) -> Query:
    """A query from JSON.

    Raises:
        BadQueryError: if it is none; the message names the field.
    """
    try:
        query = _decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PLACE.search(text) or _MISSING.search(text)
        raise BadQueryError(text, found[1] if found else "") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadQueryError(f"no JSON: {error}") from error
    _check(query)
    return query


def _check(query: Query) -> None:
    if (query.prompt_hash is None) == (query.token_ids is None):
        raise BadQueryError(
            "give prompt_hash, or model and one of token_ids, prompt and messages",
            "prompt_hash" if query.token_ids is None else "token_ids",
        )
    if query.token_ids is not None and query.model is None:
        raise BadQueryError("token_ids need the model whose tokens they are", "model")
    if query.prompt_hash is not None:
        given: Mapping[str, Any] = {"adapter": query.adapter, "salt": query.salt}
        for name in (name for name, value in given.items() if value is not None):
            raise BadQueryError(f"{name} is part of the keys in prompt_hash already", name)


def own_keys(values: Sequence[int | str]) -> list[int]:
    """Block keys as numbers.

    Raises:
        BadQueryError: at the first that is no unsigned number of 64 bits.
    """
    keys = []
    for at, value in enumerate(values):
        if isinstance(value, str):
            if not _KEY.fullmatch(value):
                raise BadQueryError("expected up to 16 hexadecimal digits", f"prompt_hash[{at}]")
            value = int(value, 16)  # noqa: PLW2901 - the same key, as a number
        if not 0 <= value < 2**64:
            raise BadQueryError("expected an unsigned number of 64 bits", f"prompt_hash[{at}]")
        keys.append(value)
    return keys


def answer(index: KVIndex, query: Query, pods: Sequence[str], places: Places) -> dict[str, PodAnswer]:
    """What each pod holds.

    Args:
        index: whose slots the places are.
        query: from :func:`parse_query`.
        pods: to answer for, when the query names none.
        places: finds the holders of a pod.

    Raises:
        BadQueryError: if a key is none.
    """
    look = _LookUp(index, query)
    found = {}
    for pod in dict.fromkeys(pods if query.pods is None else query.pods):
        answers = [look.at(place) for place in places(pod)]
        found[pod] = max(answers, key=_amount, default=_NONE)
    return found


_NONE = PodAnswer()


def _amount(one: PodAnswer) -> tuple[int, int, float]:
    return one.matched_tokens, one.matched_blocks, one.confidence


class _LookUp:
    """One query: the index is asked once per way of cutting the prompt into blocks."""

    def __init__(self, index: KVIndex, query: Query) -> None:
        self._index, self._query = index, query
        self._keys = None if query.prompt_hash is None else own_keys(query.prompt_hash)
        self._found: dict[int, MatchResult] = {}

    def at(self, place: Place) -> PodAnswer:
        query = self._query
        own = place.block_size
        other = bool(query.model and place.models and query.model not in place.models)
        if other or (self._keys is None and not own):
            return PodAnswer(block_size=own, rank=place.rank)
        match = self._match(place)
        blocks, (gpu, cpu, disk) = match.of(place.slot), match.tiers(place.slot)
        total, size = match.total, own
        tokens = blocks * own
        if query.block_size and own:
            size = query.block_size
            blocks = credited_blocks(blocks, own, size)
            total = credited_blocks(total, own, size) if query.token_ids is None else len(query.token_ids) // size
        rate = blocks / total if total else 0.0
        return PodAnswer(rate, blocks, total, tokens, size, Tiers(gpu, cpu, disk), place.confidence, place.rank)

    def _match(self, place: Place) -> MatchResult:
        cut = 0 if self._keys is not None else place.block_size
        match = self._found.get(cut)
        if match is None:
            match = self._found[cut] = self._index.match(self._keys_for(cut) if self._keys is None else self._keys)
        return match

    def _keys_for(self, block_size: int) -> list[int]:
        query = self._query
        return token_block_keys(query.token_ids or (), block_size, root_key(CHAIN_MODEL, query.adapter, query.salt))
