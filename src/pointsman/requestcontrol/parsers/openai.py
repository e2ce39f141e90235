"""OpenAI bodies: chat completions, completions, embeddings, responses, conversations, images, and vLLM's ``render``.

Only what a decision needs is decoded, strictly; everything else in the body is left to the model server.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.requestcontrol.parsers.body import (
    LONG_BODY_BYTES,
    MESSAGE_END,
    Common,
    Count,
    LongMessage,
    Message,
    Named,
    Parsed,
    content_bytes,
    conversation,
    long_conversation,
    raw_bytes,
    text_or_tokens,
)


class _Chat(Named, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: msgspec.Raw = msgspec.Raw()


class _LongChat(Named, kw_only=True):
    messages: Annotated[list[LongMessage], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: msgspec.Raw = msgspec.Raw()


class _Completion(Named, kw_only=True):
    prompt: str | list[Any]


class _Embedding(Named, kw_only=True):
    input: str | list[Any] = ""


class _Responses(Named, kw_only=True):
    input: str | list[Any] = ""
    instructions: str | None = None
    max_output_tokens: Count | None = None


class _Conversation(Common, kw_only=True):
    items: list[Any] | None = None


class _Image(Named, kw_only=True):
    prompt: str = ""


class _Render(Named, kw_only=True):
    """Either a chat or a completion: which one, the path does not always tell."""

    messages: list[Message] | None = None
    prompt: str | list[Any] | None = None
    tools: msgspec.Raw = msgspec.Raw()


def parse_chat(body: bytes) -> Parsed:
    """The conversation, behind the tools that it may use."""
    if len(body) >= LONG_BODY_BYTES:
        long = _LONG_CHAT.decode(body)
        prompt, size = long_conversation(_tools(long.tools), long.messages)
        return Parsed(long, prompt, None, long.max_completion_tokens or long.max_tokens, size)
    chat = _CHAT.decode(body)
    prompt = conversation(_tools(chat.tools), chat.messages)
    return Parsed(chat, prompt, None, chat.max_completion_tokens or chat.max_tokens)


def _tools(tools: msgspec.Raw) -> tuple[bytes, ...]:
    data = raw_bytes(tools)
    return (data, MESSAGE_END) if data else ()


def parse_completion(body: bytes) -> Parsed:
    """A prompt as text or token ids."""
    completion = _COMPLETION.decode(body)
    prompt, ids = text_or_tokens(completion.prompt, "prompt")
    return Parsed(completion, prompt, ids, completion.max_tokens)


def parse_embedding(body: bytes) -> Parsed:
    """Input of which no token comes back."""
    embedding = _EMBEDDING.decode(body)
    return Parsed(embedding, content_bytes(embedding.input), None, 0)


def parse_responses(body: bytes) -> Parsed:
    """Instructions and input; what the server has stored of earlier turns is not seen."""
    responses = _RESPONSES.decode(body)
    prompt = content_bytes(responses.instructions) + MESSAGE_END + content_bytes(responses.input)
    return Parsed(responses, prompt, None, responses.max_output_tokens or responses.max_tokens)


def parse_conversation(body: bytes) -> Parsed:
    """A conversation that is only stored: no model is asked, so none need be named."""
    stored = _CONVERSATION.decode(body)
    return Parsed(stored, content_bytes(stored.items), None, 0)


def parse_image(body: bytes) -> Parsed:
    """A prompt of which no text comes back."""
    image = _IMAGE.decode(body)
    return Parsed(image, content_bytes(image.prompt), None, 0)


def parse_render(body: bytes) -> Parsed:
    """A prompt that is only turned into tokens."""
    render = _RENDER.decode(body)
    if render.prompt is not None:
        prompt, ids = text_or_tokens(render.prompt, "prompt")
        return Parsed(render, prompt, ids, 0)
    return Parsed(render, conversation(_tools(render.tools), render.messages or ()), None, 0)


_CHAT = msgspec.json.Decoder(_Chat)
_LONG_CHAT = msgspec.json.Decoder(_LongChat)
_COMPLETION = msgspec.json.Decoder(_Completion)
_EMBEDDING = msgspec.json.Decoder(_Embedding)
_RESPONSES = msgspec.json.Decoder(_Responses)
_CONVERSATION = msgspec.json.Decoder(_Conversation)
_IMAGE = msgspec.json.Decoder(_Image)
_RENDER = msgspec.json.Decoder(_Render)

PARSERS = {
    "/chat/completions": parse_chat,
    "/completions": parse_completion,
    "/embeddings": parse_embedding,
    "/responses": parse_responses,
    "/conversations": parse_conversation,
    "/images/generations": parse_image,
    "/render": parse_render,
}
"""Path suffix → parser."""
