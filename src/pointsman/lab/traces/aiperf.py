"""AIPerf's inputs: JSON lines of the types mooncake_trace (with sessions or texts), single_turn and multi_turn.

Source: github.com/ai-dynamo/aiperf, src/aiperf/dataset/loader/models.py (``MooncakeTrace``, ``SingleTurn``,
``MultiTurn``), docs/benchmark-modes/trace-replay.md and docs/reference/conversation-context-mode.md. ``timestamp`` and
``delay`` are milliseconds; ``delay`` counts from the answer before. Turns of a session that give lengths, blocks or
texts are added to the conversation so far, answers included; those with ``messages`` or ``payload`` hold all of it,
unless ``message_mode`` is ``delta``; those of single_turn stand alone.

Texts become tokens of the toy tokenizer, four bytes each. A line without ``output_length`` gets
``DEFAULT_OUTPUT`` tokens, as AIPerf takes the number from a flag then. Pictures and sounds are left out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from pointsman.errors import TraceError
from pointsman.lab.traces.lines import Lines, json_lines
from pointsman.lab.traces.mooncake import BLOCK, check_ids
from pointsman.lab.traces.rows import BlockId, Millis, Tokens, TraceRow
from pointsman.sim.tokens import Message, chat_tokens, text_tokens

DEFAULT_OUTPUT = 128


class AiperfTurn(msgspec.Struct):
    """A turn as documented; of the ways to give a prompt there is exactly one."""

    timestamp: Millis | None = None
    delay: Millis | None = None
    output_length: Tokens | None = None
    text: str | None = None
    texts: list[str] | None = None
    text_input: str | None = None
    input_length: Tokens | None = None
    hash_ids: list[BlockId] | None = None
    messages: list[dict[str, Any]] | None = None
    payload: dict[str, Any] | None = None
    message_mode: Literal["history", "delta"] = "history"


class AiperfLine(AiperfTurn):
    """A line: a turn, or a session with its turns."""

    session_id: str | None = None
    turns: list[AiperfTurn] | None = None


def rows(lines: Lines, block: int | None = None) -> Iterator[TraceRow]:
    """The requests of the file."""
    size = block or BLOCK
    for number, line in json_lines(lines, AiperfLine):
        session = line.session_id or ""
        if line.turns is None:
            yield _row(number, line, session, size, grows=line.text is None and line.texts is None)
            continue
        if not line.turns:
            raise TraceError("expected at least one turn", line=number, field="turns")
        for turn in line.turns:
            yield _row(number, turn, session or f"line {number}", size, grows=True)


def _row(number: int, turn: AiperfTurn, session: str, block: int, *, grows: bool) -> TraceRow:
    text = _text(number, turn)
    whole = turn.messages is not None or turn.payload is not None
    length = turn.input_length if text is None else len(text)
    if length is None:
        raise TraceError(
            "no prompt", line=number, hint="one of text, texts, text_input, input_length, messages, payload, turns"
        )
    ids = turn.hash_ids or []
    check_ids(number, ids, length, block)
    return TraceRow(
        line=number,
        at=None if turn.timestamp is None else turn.timestamp / 1000,
        input_length=length,
        output_length=DEFAULT_OUTPUT if turn.output_length is None else turn.output_length,
        ids=ids,
        block=block if ids else 0,
        text=text,
        delta=bool(session) and (turn.message_mode == "delta" if whole else grows),
        session=session,
        think=None if turn.delay is None else turn.delay / 1000,
    )


def _text(number: int, turn: AiperfTurn) -> array[int] | None:
    """Tokens of a prompt given as text, None for one given by its length."""
    given = [name for name in _WAYS if getattr(turn, name) is not None]
    if len(given) > 1:
        raise TraceError(f"{' and '.join(given)} at once, where one is wanted", line=number)
    plain = turn.text if turn.text is not None else turn.text_input
    if turn.texts is not None:
        plain = "\n".join(turn.texts)
    messages = turn.messages
    if turn.payload is not None:
        messages = turn.payload.get("messages")
        if messages is None:
            plain = turn.payload.get("prompt")
            if not isinstance(plain, str):
                raise TraceError("expected messages or a prompt", line=number, field="payload")
    if messages is not None:
        return _chat(number, messages)
    return None if plain is None else text_tokens(plain)


_WAYS = ("text", "texts", "text_input", "input_length", "messages", "payload")


def _chat(number: int, messages: object) -> array[int]:
    if not isinstance(messages, list) or not all(isinstance(one, dict) and "role" in one for one in messages):
        raise TraceError("expected a list of messages, each with a role", line=number, field="messages")
    return chat_tokens(Message(str(one["role"]), content_text(one.get("content"))) for one in messages)


def content_text(content: object) -> str:
    """A message's content as text; what is no text stands as JSON."""
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()
