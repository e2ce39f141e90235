"""Anthropic bodies: messages, and the counting of their tokens."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.requestcontrol.parsers.body import (
    LONG_BODY_BYTES,
    MESSAGE_END,
    LongMessage,
    Message,
    Named,
    Parsed,
    content_bytes,
    conversation,
    long_conversation,
    raw_bytes,
)


class _Messages(Named, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[Any] | None = None
    tools: msgspec.Raw = msgspec.Raw()


class _LongMessages(Named, kw_only=True):
    messages: Annotated[list[LongMessage], Meta(min_length=1)]
    system: str | list[Any] | None = None
    tools: msgspec.Raw = msgspec.Raw()


def parse_messages(body: bytes) -> Parsed:
    """Tools, system and turns, in the order in which a model sees them."""
    if len(body) >= LONG_BODY_BYTES:
        long = _LONG_MESSAGES.decode(body)
        prompt, size = long_conversation(_start(long), long.messages)
        return Parsed(long, prompt, None, long.max_tokens, size)
    asked = _MESSAGES.decode(body)
    return Parsed(asked, conversation(_start(asked), asked.messages), None, asked.max_tokens)


def parse_count(body: bytes) -> Parsed:
    """The same body, of which no token comes back."""
    return parse_messages(body)._replace(max_tokens=0)


def _start(asked: _Messages | _LongMessages) -> list[bytes]:
    return [
        part for data in (raw_bytes(asked.tools), content_bytes(asked.system)) if data for part in (data, MESSAGE_END)
    ]


_MESSAGES = msgspec.json.Decoder(_Messages)
_LONG_MESSAGES = msgspec.json.Decoder(_LongMessages)

PARSERS = {"/v1/messages": parse_messages, "/v1/messages/count_tokens": parse_count}
"""Path suffix → parser."""
