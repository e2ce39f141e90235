"""Spans of OpenTelemetry's GenAI conventions, as JSON lines of the OTLP file exporter.

Sources: opentelemetry.io, "OpenTelemetry Protocol File Exporter" (each line is a ``TracesData`` in OTLP's JSON:
``resourceSpans``, ``scopeSpans``, ``spans``, ``startTimeUnixNano``, attributes as ``{"key", "value": {"intValue"}}``;
order is not promised) and "Semantic conventions for generative client AI spans": ``gen_ai.operation.name``,
``gen_ai.usage.input_tokens``, ``gen_ai.usage.output_tokens``, ``gen_ai.conversation.id``, ``gen_ai.input.messages``.
Until 1.26 of the conventions the counts were ``gen_ai.usage.prompt_tokens`` and ``completion_tokens``.

Inference is what counts: chat, text_completion, generate_content. Agents, tools and embeddings are left out, and so
are calls that failed before they were counted. With ``gen_ai.input.messages`` the prompt is their text, four bytes a
token, followed by tokens of its own up to the recorded length. Without, an assumption: a conversation only grows, so
prompts of the same ``gen_ai.conversation.id`` begin alike; other prompts are like no other.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pointsman.errors import TraceError
from pointsman.lab.traces.aiperf import content_text
from pointsman.lab.traces.lines import Lines, json_lines
from pointsman.lab.traces.rows import MAX_TOKENS, TraceRow
from pointsman.sim.tokens import Message, chat_tokens

INFERENCE = frozenset({"chat", "text_completion", "generate_content"})
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")


class _Value(msgspec.Struct):
    """OTLP's AnyValue: one of these; 64-bit integers may be decimal strings."""

    stringValue: str | None = None  # noqa: N815 - OTLP's names
    intValue: int | str | None = None  # noqa: N815
    doubleValue: float | None = None  # noqa: N815
    boolValue: bool | None = None  # noqa: N815
    arrayValue: _Array | None = None  # noqa: N815
    kvlistValue: _Pairs | None = None  # noqa: N815

    def plain(self) -> Any:
        """As Python has it."""
        if self.arrayValue is not None:
            return [one.plain() for one in self.arrayValue.values]
        if self.kvlistValue is not None:
            return {one.key: one.value.plain() for one in self.kvlistValue.values}
        given = (self.stringValue, self.intValue, self.doubleValue, self.boolValue)
        return next((one for one in given if one is not None), None)


class _Array(msgspec.Struct):
    values: list[_Value] = []


class _Attribute(msgspec.Struct):
    key: str
    value: _Value = msgspec.field(default_factory=_Value)


class _Pairs(msgspec.Struct):
    values: list[_Attribute] = []


class _Span(msgspec.Struct):
    startTimeUnixNano: int | str  # noqa: N815
    endTimeUnixNano: int | str = 0  # noqa: N815
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct):
    spans: list[_Span] = []


class _Resource(msgspec.Struct):
    scopeSpans: list[_Scope] = []  # noqa: N815


class OtelLine(msgspec.Struct):
    """A line as documented, as far as it is of interest."""

    resourceSpans: list[_Resource]  # noqa: N815


def rows(lines: Lines, block: int | None = None) -> Iterator[TraceRow]:
    """The inferences of the file."""
    del block
    for number, line in json_lines(lines, OtelLine):
        for resource in line.resourceSpans:
            for scope in resource.scopeSpans:
                for span in scope.spans:
                    found = _row(number, span)
                    if found is not None:
                        yield found


def _row(number: int, span: _Span) -> TraceRow | None:
    facts = {one.key: one.value.plain() for one in span.attributes if one.key.startswith(("gen_ai.", "error."))}
    operation = facts.get("gen_ai.operation.name")
    asked = _count(number, facts, _INPUT)
    if str(operation) not in INFERENCE if operation is not None else asked is None:
        return None
    text = _text(number, facts)
    if asked is None and text is None:
        if "error.type" in facts:
            return None
        raise TraceError("an inference without its input tokens", line=number, field=_INPUT[0])
    conversation = facts.get("gen_ai.conversation.id")
    session = "" if conversation is None else str(conversation)
    return TraceRow(
        line=number,
        at=_nanos(number, "startTimeUnixNano", span.startTimeUnixNano),
        end=_nanos(number, "endTimeUnixNano", span.endTimeUnixNano) or None,
        input_length=max(asked or 0, len(text or ())),
        output_length=_count(number, facts, _OUTPUT) or 0,
        text=text,
        stream=session,
        session=session,
    )


def _count(number: int, facts: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    for name in names:
        found = facts.get(name)
        if found is None:
            continue
        text = str(found)
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= MAX_TOKENS):
            message = f"expected a whole number from 0 to {MAX_TOKENS}, got {text[:60]!r}"
            raise TraceError(message, line=number, field=name)
        return int(text)
    return None


def _nanos(number: int, name: str, value: int | str) -> float:
    """Seconds of a time in nanoseconds."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise TraceError(f"expected nanoseconds, got {text[:60]!r}", line=number, field=name)
    return int(text) / 1e9


def _text(number: int, facts: Mapping[str, object]) -> array[int] | None:
    messages = facts.get("gen_ai.input.messages")
    if isinstance(messages, str):
        try:
            messages = msgspec.json.decode(messages)
        except (msgspec.DecodeError, RecursionError) as error:
            raise TraceError(f"no JSON: {error}", line=number, field="gen_ai.input.messages") from error
    if messages is None:
        return None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise TraceError("expected a list of messages", line=number, field="gen_ai.input.messages")
    found = [Message(str(one.get("role", "")), content_text(one.get("parts", one.get("content")))) for one in messages]
    system = facts.get("gen_ai.system_instructions")
    if system is not None:
        found.insert(0, Message("system", content_text(system)))
    return chat_tokens(found)
