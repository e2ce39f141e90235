"""A toy tokenizer, chat template and language.

Four UTF-8 bytes are one token; the last token of a text may be shorter. A token's id depends on its bytes alone. Every
message is cut on its own, between special tokens, so a conversation's prompt starts with the very tokens of the turn
before it, the answer included: prefix caching works as with a real template.

Answers are cut out of one fixed text, so that they can be had by offset, many tokens at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

VOCABULARY = 150_000
BYTES_PER_TOKEN = 4

_SPECIAL = 100  # ids below are no text
_START, _END = 1, 2
_ROLES = {"system": 3, "user": 4, "assistant": 5, "tool": 6, "developer": 7}
_OTHER_ROLE = 8
_SPECIAL_TEXT = {
    _START: "<|im_start|>",
    _END: "<|im_end|>\n",
    _OTHER_ROLE: "other\n",
    **{number: f"{role}\n" for role, number in _ROLES.items()},
}

_SENTENCES = (
    "The signal at the junction turned green and the night express rolled slowly over the points. ",
    "Every wagon carried a number, and the pointsman wrote each of them into the ledger before dawn. ",
    "When two trains ask for the same track, the one that waits least overall goes first. ",
    "Old lines remember where they have been, and a warm engine starts sooner than a cold one. ",
    "A good timetable is short, honest about its delays, and easy to change when the snow comes. ",
    "Nobody thanks the signal box on a quiet day, which is how it likes its days to be. ",
)
ANSWER_TOKENS = 4096
"""Length of the text answers are cut from; it repeats from there."""


class Message(NamedTuple):
    """One chat message as plain text."""

    role: str
    content: str


def _filler(length: int) -> str:
    parts: list[str] = []
    size = 0
    # A stride that does not divide the number of sentences keeps the text from repeating too soon.
    for i in range(length):
        sentence = _SENTENCES[(i * i + i // 6) % len(_SENTENCES)]
        parts.append(sentence)
        size += len(sentence)
        if size >= length:
            break
    return "".join(parts)[:length]


def text_tokens(text: str) -> array[int]:
    """Ids of a text, each from ``_SPECIAL`` to below ``VOCABULARY``."""
    data = text.encode()
    padding = -len(data) % BYTES_PER_TOKEN
    words = array("I", data + b"\0" * padding)
    span = VOCABULARY - _SPECIAL
    return array("I", [word % span + _SPECIAL for word in words])


def chat_tokens(messages: Iterable[Message], *, add_generation_prompt: bool = True) -> array[int]:
    """Ids of a conversation: start, role, content and end of each message, then the start of the answer."""
    tokens = array("I")
    for message in messages:
        tokens.extend((_START, _ROLES.get(message.role, _OTHER_ROLE)))
        tokens += text_tokens(message.content)
        tokens.append(_END)
    if add_generation_prompt:
        tokens.extend((_START, _ROLES["assistant"]))
    return tokens


_ANSWER = _filler(ANSWER_TOKENS * BYTES_PER_TOKEN)
_ANSWER_TWICE = _ANSWER * 2
_ANSWER_IDS = text_tokens(_ANSWER_TWICE)
_KNOWN = dict(zip(_ANSWER_IDS, (_ANSWER[i : i + 4] for i in range(0, len(_ANSWER), 4)), strict=False))


def answer_offset(prompt: array[int]) -> int:
    """Where the answer to a prompt begins: the same prompt gets the same answer, as at temperature 0."""
    return xxh3_64_intdigest(memoryview(prompt).cast("B")) % ANSWER_TOKENS


def answer_ids(offset: int, start: int, stop: int) -> array[int]:
    """Ids of output tokens ``start`` to ``stop`` of the answer that begins at ``offset`` of the fixed text."""
    ids = array("I")
    while start < stop:
        at = (offset + start) % ANSWER_TOKENS
        count = min(stop - start, ANSWER_TOKENS)
        ids += _ANSWER_IDS[at : at + count]
        start += count
    return ids


def answer_text(offset: int, start: int, stop: int) -> str:
    """Text of the same tokens: printable ASCII without quotes or backslashes, so it needs no escaping in JSON."""
    parts = []
    while start < stop:
        at = (offset + start) % ANSWER_TOKENS
        count = min(stop - start, ANSWER_TOKENS)
        parts.append(_ANSWER_TWICE[at * BYTES_PER_TOKEN : (at + count) * BYTES_PER_TOKEN])
        start += count
    return "".join(parts)


def detokenize(ids: Sequence[int]) -> str:
    """Text of known ids (specials and what answers are made of); others become ``<id>``, as ids cannot be inverted."""
    return "".join(_SPECIAL_TEXT.get(i) or _KNOWN.get(i) or f"<{i}>" for i in ids)
