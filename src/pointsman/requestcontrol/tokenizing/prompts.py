"""What a body asks to be tokenized: a conversation or a text, with everything that decides its token ids.

Only requests whose tokens can be computed from the text alone are read here. Everything else (media, batches of
prompts, truncation, a template sent along) is None, and its length is estimated or asked of the engine.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

MEDIA_FREE_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
"""Content parts that hold text and nothing else."""


class TextPrompt(msgspec.Struct, frozen=True):
    """A text as it is."""

    text: str
    add_special_tokens: bool = True


class ChatPrompt(msgspec.Struct, frozen=True):
    """A conversation that a chat template turns into text.

    Attributes:
        messages: as the client wrote them.
        tools: ditto; None and an empty list may choose different templates.
        options: what else the template sees (``add_generation_prompt``, the client's ``chat_template_kwargs``, ...).
        continue_last: leave the last message open, for the model to go on with.
        add_special_tokens: add the tokenizer's own special tokens to those that the template writes.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    options: dict[str, Any] = {}
    continue_last: bool = False
    add_special_tokens: bool = False


Prompt: TypeAlias = TextPrompt | ChatPrompt


class _Chat(msgspec.Struct):
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    truncate_prompt_tokens: int | None = None


class _Text(msgspec.Struct):
    prompt: str
    add_special_tokens: bool = True
    prompt_embeds: Any = None
    truncate_prompt_tokens: int | None = None


class _Either(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw()


def readable(path: str) -> bool:
    """Whether prompts of this path may be read at all; without looking at the body."""
    return path.endswith(("/completions", "/render"))


def read_prompt(path: str, body: bytes) -> Prompt | None:
    """The prompt of a request, or None when its tokens are not the text's alone or the body cannot be understood."""
    try:
        if path.endswith("/chat/completions"):
            return _chat(body)
        if path.endswith("/completions"):
            return _text(body)
        if path.endswith("/render"):
            return _text(body) if bytes(_EITHER.decode(body).messages) in {b"", b"null"} else _chat(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return None


def _chat(body: bytes) -> ChatPrompt | None:
    chat = _CHAT.decode(body)
    given = chat.chat_template_kwargs or {}
    if (
        not chat.messages
        or chat.chat_template is not None
        or chat.truncate_prompt_tokens is not None
        or given.keys() & {"chat_template", "tokenize", "messages"}
        or not all(map(_text_only, chat.messages))
    ):
        return None
    own: dict[str, Any] = {"documents": chat.documents, "reasoning_effort": chat.reasoning_effort}
    if chat.reasoning_effort is not None and "enable_thinking" not in given:
        own["enable_thinking"] = chat.reasoning_effort != "none"  # as vLLM does for templates that want to be told
    options = given | {key: value for key, value in own.items() if value is not None}
    options["add_generation_prompt"] = chat.add_generation_prompt and not chat.continue_final_message
    return ChatPrompt(chat.messages, chat.tools, options, chat.continue_final_message, chat.add_special_tokens)


def _text(body: bytes) -> TextPrompt | None:
    text = _TEXT.decode(body)
    if text.prompt_embeds is not None or text.truncate_prompt_tokens is not None:
        return None
    return TextPrompt(text.prompt, text.add_special_tokens)


def _text_only(message: dict[str, Any]) -> bool:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return isinstance(message.get("role"), str)
    return (
        isinstance(content, list)
        and isinstance(message.get("role"), str)
        and all(
            isinstance(part, str)
            or (
                isinstance(part, dict)
                and part.get("type") in MEDIA_FREE_PARTS
                and "uuid" not in part  # names media sent before
                and isinstance(part_text(part), str)
            )
            for part in content
        )
    )


def part_text(part: dict[str, Any]) -> Any:
    """The text of a content part: under ``text``, or under the name of its type."""
    kind = part["type"]
    return part.get(kind if kind in {"refusal", "thinking"} else "text")


_CHAT = msgspec.json.Decoder(_Chat)
_TEXT = msgspec.json.Decoder(_Text)
_EITHER = msgspec.json.Decoder(_Either)
