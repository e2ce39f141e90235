"""Queries to an index that hold a prompt: the token ids are found by the code of the request path.

A query may be the body of a chat or completion as a client wrote it, with the fields of a query beside the client's:
whatever does not decide token ids is ignored here as it is in engines, so the ids are those of the request.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.errors import BadRequestError, RequestError
from pointsman.kvcache.query import MAX_BLOCK_SIZE, MAX_NAME, MAX_PODS, MAX_TOKENS, BadQueryError, Query
from pointsman.requestcontrol.parsers.registry import parse_request
from pointsman.requestcontrol.tokenizing.result import Tokenization
from pointsman.requestcontrol.tokenizing.service import Tokenizing

OWN_FIELDS = frozenset({"pods", "adapter", "salt", "block_size", "return_token_ids"})
"""Of a query, not of a request: a server that is asked for tokens does not see them."""

_PATHS = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}
_PLACE = re.compile(r"at `(?:\$\.?)?([^`]*)`|field `([^`]*)`|^`([^`]*)`")
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class NoTokenizerError(BadQueryError):
    """Nobody was named who could tokenize; no prompt at all can be answered for."""

    http_status = 422
    reason = "no-tokenizer"


class NoTokensError(RequestError):
    """The token ids were not to be had in time; they may be later."""

    http_status = 503
    reason = "no-tokens"


class Asked(msgspec.Struct, frozen=True):
    """A query with a prompt, its token ids found."""

    query: Query
    wants_ids: bool
    """Whether the answer is to hold the ids."""


class _Peek(msgspec.Struct):
    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()


class _Fields(msgspec.Struct):
    """What of a query may stand beside a prompt."""

    model: _Name
    pods: Annotated[list[_Name], Meta(max_length=MAX_PODS)] | None = None
    adapter: _Name | None = None
    salt: _Name | None = None
    cache_salt: str | None = None
    block_size: Annotated[int, Meta(ge=1, le=MAX_BLOCK_SIZE)] | None = None
    return_token_ids: bool = False
    prompt_hash: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    token_ids: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_PEEK = msgspec.json.Decoder(_Peek)
_FIELDS = msgspec.json.Decoder(_Fields)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def prompt_field(body: bytes) -> str:
    """Which field holds the prompt, ``messages`` or ``prompt``; empty when the body is a query of another kind.

    Raises:
        BadQueryError: if it has both.
    """
    if b'"messages"' not in body and b'"prompt"' not in body:
        return ""  # two million token ids are not read twice for this
    try:
        peek = _PEEK.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""  # what is wrong with it, the reader of the other kinds says
    found = [name for name in _PATHS if bytes(getattr(peek, name)) not in {b"", b"null"}]
    if len(found) > 1:
        raise BadQueryError("give messages or prompt, not both", "prompt")
    return found[0] if found else ""


async def read_prompt_query(body: bytes, field: str, tokenizing: Tokenizing) -> Asked:
    """Find the token ids of a query's prompt.

    Args:
        body: the query.
        field: from :func:`prompt_field`.
        tokenizing: who is asked; without ways, only prompts of token ids can be read.

    Raises:
        BadQueryError: the body cannot be understood, or this prompt's tokens cannot be told; names the field.
        NoTokenizerError: there is no way to tokens at all.
        NoTokensError: they were not found in time, or the engine asked for them is away.
    """
    fields = _fields(body)
    if fields.salt is not None and fields.cache_salt not in {None, "", fields.salt}:
        raise BadQueryError("differs from cache_salt; give one of them", "salt")
    request, asked = _request(body, field)
    found = tokenizing.immediate(request)
    if found is None:
        found = await tokenizing.tokens(request, asked)
    ids = _ids(found, request, field, able=tokenizing.able)
    query = Query(
        pods=fields.pods,
        model=fields.model,
        token_ids=ids,
        adapter=fields.adapter,
        salt=fields.salt or fields.cache_salt or None,
        block_size=fields.block_size,
    )
    return Asked(query, fields.return_token_ids)


def _ids(found: Tokenization, request: InferenceRequest, field: str, *, able: bool) -> list[int]:
    if found.token_ids is not None:
        if len(found.token_ids) > MAX_TOKENS:
            raise BadQueryError(f"more than {MAX_TOKENS} tokens", field)
        return list(found.token_ids)
    if not request.prompt:
        raise BadQueryError("is empty", field)
    if not able:
        raise NoTokenizerError(
            "nobody here tokenizes: start the indexer with --tokenizer PATH or --tokenize-url URL, or give token_ids",
            field,
        )
    why = "; ".join(found.problems) or "no answer"
    if found.late or found.away:
        raise NoTokensError(f"the prompt's tokens cannot be had now: {why}")
    raise BadQueryError(f"the prompt's tokens cannot be told: {why}", field)


def _fields(body: bytes) -> _Fields:
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadQueryError(str(error), _place(str(error))) from error
    for name in ("prompt_hash", "token_ids"):
        if getattr(fields, name) is not msgspec.UNSET:
            raise BadQueryError("give this or a prompt, not both", name)
    return fields


def _request(body: bytes, field: str) -> tuple[InferenceRequest, bytes]:
    """The request as the picker would see it, and its body."""
    data: dict[str, Any] = _OBJECT.decode(body)
    if OWN_FIELDS & data.keys():
        body = msgspec.json.encode({name: value for name, value in data.items() if name not in OWN_FIELDS})
    head = RequestHead({":method": "POST", ":path": _PATHS[field]})
    try:
        return parse_request(head, body, request_id="query", arrival=0.0), body
    except BadRequestError as error:
        raise BadQueryError(str(error), _place(str(error))) from error


def _place(text: str) -> str:
    """The field that an error's text names, empty for none."""
    found = _PLACE.search(text)
    return next((group for group in found.groups() if group), "") if found else ""
