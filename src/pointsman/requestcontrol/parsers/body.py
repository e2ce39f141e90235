"""What all parsers share: the fields common to every body, and the canonical bytes of a prompt.

Canonical bytes grow at the end when a conversation goes on, so that prefixes of prompts are prefixes of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from pointsman.errors import BadRequestError

ROLE_END = b"\x1f"
MESSAGE_END = b"\x1e"

LONG_BODY_BYTES = 256 * 1024
"""Bodies from here on are read with :func:`long_conversation`."""

MAX_PROMPT_BYTES = 1024 * 1024
"""Canonical bytes kept of a prompt; of what comes behind only the length is told. Prefix matching looks at 512 KB."""

Model = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Content: TypeAlias = str | list[Any] | None


class Common(msgspec.Struct, kw_only=True):
    """What every kind of request may say."""

    model: str = ""
    max_tokens: Count | None = None
    stream: bool | None = None
    cache_salt: str | None = None


class Named(Common, kw_only=True):
    """A request that must name its model."""

    model: Model


class Parsed(NamedTuple):
    """What a parser found: the prompt either as canonical bytes or as token ids."""

    common: Common
    prompt: bytes
    token_ids: tuple[int, ...] | None = None
    max_tokens: int | None = None
    prompt_bytes: int | None = None
    """Length of the whole prompt when ``prompt`` holds only the beginning of a very long one."""


class Message(msgspec.Struct):
    """A turn of a conversation."""

    role: str = ""
    content: Content = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class LongMessage(msgspec.Struct):
    """A turn of a conversation whose content is decoded only when it is wanted."""

    role: str = ""
    content: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()


_CONTENT: msgspec.json.Decoder[str | list[Any] | None] = msgspec.json.Decoder(str | list[Any] | None)
_LONGEST_CHARACTER = 13
"""Bytes of a surrogate pair in escapes, and one."""

_MUCH = 4 * MAX_PROMPT_BYTES
"""Content longer than this is cut before it is decoded; were it all escapes, 700 KB would be left."""


def content_bytes(content: Content) -> bytes:
    """The canonical bytes of text, or of a list of content blocks."""
    if content is None:
        return b""
    return content.encode("utf-8", "surrogatepass") if isinstance(content, str) else msgspec.json.encode(content)


def raw_bytes(raw: msgspec.Raw) -> bytes:
    """Bytes of a part that is left as it came; nothing, null and an empty list are the same."""
    data = bytes(raw)
    return b"" if data in (b"null", b"[]") else data


def conversation(start: Iterable[bytes], messages: Iterable[Message]) -> bytes:
    """The canonical bytes of a conversation behind ``start``."""
    parts = list(start)
    for message in messages:
        parts += (
            message.role.encode(),
            ROLE_END,
            content_bytes(message.content),
            bytes(message.tool_calls),
            MESSAGE_END,
        )
    return b"".join(parts)


def long_conversation(start: Iterable[bytes], messages: Iterable[LongMessage]) -> tuple[bytes, int]:
    """The beginning of :func:`conversation`'s bytes and about how many there would be in all.

    Content behind the first megabyte is never decoded: of 16 MB that takes 30 to 60 ms, in which nothing else runs.
    """
    parts = list(start)
    kept = total = sum(map(len, parts))
    for message in messages:
        raw = bytes(message.content)
        total += len(raw) + len(message.role) + len(bytes(message.tool_calls)) + 2
        if kept >= MAX_PROMPT_BYTES:
            continue
        content, cut = _beginning(raw)
        part = b"".join((message.role.encode(), ROLE_END, content))
        if not cut:
            part = b"".join((part, bytes(message.tool_calls), MESSAGE_END))
        # nothing may follow the beginning of a content as if it were all of it
        kept = MAX_PROMPT_BYTES if cut else kept + len(part)
        parts.append(part)
    return b"".join(parts)[:MAX_PROMPT_BYTES], total


def _beginning(raw: bytes) -> tuple[bytes, bool]:
    """Canonical bytes of content, and whether it was cut because there are more than enough."""
    if len(raw) <= _MUCH:
        return content_bytes(_CONTENT.decode(raw) if raw else None), False
    if raw[:1] != b'"':
        return raw[:_MUCH], True  # blocks as they came: the same client will write them alike in its next turn
    for end in range(_MUCH, _MUCH - _LONGEST_CHARACTER, -1):
        try:
            return content_bytes(_CONTENT.decode(raw[:end] + b'"')), True
        except (msgspec.DecodeError, UnicodeError):
            continue  # the cut went through a character or an escape
    return content_bytes(_CONTENT.decode(raw)), False


def are_tokens(items: list[Any]) -> bool:
    """Whether a list holds token ids and nothing else."""
    return set(map(type, items)) <= {int} and (not items or (min(items) >= 0 and max(items) < 2**32))


def text_or_tokens(prompt: str | list[Any], field: str) -> tuple[bytes, tuple[int, ...] | None]:
    """A prompt as completions have it: a string, strings, token ids, or lists of token ids.

    Raises:
        BadRequestError: it is none of these.
    """
    if isinstance(prompt, str):
        return content_bytes(prompt), None
    ids = prompt[0] if len(prompt) == 1 and isinstance(prompt[0], list) else prompt
    if not ids:
        raise BadRequestError(f"`{field}` is empty")
    if are_tokens(ids):
        return b"", tuple(ids)
    if not all(isinstance(item, str) or (isinstance(item, list) and are_tokens(item)) for item in prompt):
        raise BadRequestError(f"`{field}`: expected a string, strings, token ids, or lists of token ids")
    return msgspec.json.encode(prompt), None
