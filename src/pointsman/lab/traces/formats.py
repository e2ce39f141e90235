"""The formats there are, and which of them a file has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from pointsman.lab.traces import agentic, aiperf, azure, burstgpt, mooncake, otel, qwen
from pointsman.lab.traces.lines import Lines
from pointsman.lab.traces.rows import TraceRow

RECORDS = "records"
"""Our own records: the format that :mod:`pointsman.lab.records` reads."""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One format.

    Attributes:
        name: as on the command line.
        title: whose it is.
        rows: its reader: lines, and tokens in a block where that can be chosen.
        sessions: it is about sessions, replayed in closed loop unless told otherwise.
        relative: times count from the start of the session.
    """

    name: str
    title: str
    rows: Callable[[Lines, int | None], Iterator[TraceRow]]
    sessions: bool = False
    relative: bool = False


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        one.name: one
        for one in (
            Format(name="mooncake", title="Mooncake's JSON lines", rows=mooncake.rows),
            Format(name="azure", title="Azure's LLM inference traces, CSV", rows=azure.rows),
            Format(
                name="agentic", title="agent sessions, block deltas", rows=agentic.rows, sessions=True, relative=True
            ),
            Format(name="burstgpt", title="BurstGPT, CSV", rows=burstgpt.rows),
            Format(name="qwen", title="Qwen on Bailian, JSON lines", rows=qwen.rows),
            Format(name="aiperf", title="AIPerf's inputs, JSON lines", rows=aiperf.rows, sessions=True),
            Format(name="otel", title="OpenTelemetry GenAI spans, OTLP JSON lines", rows=otel.rows),
        )
    }
)
NAMES = (*FORMATS, RECORDS)


def looks_like(line: bytes) -> str | None:
    """The format whose file begins with that line; None for none of them.

    What tells them apart are the names of their fields, so a line with a wrong value in it is known all the same.
    """
    if not line.startswith(b"{"):
        columns = {name.strip() for name in line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split(",")}
        known = {"azure": azure.COLUMNS, "burstgpt": burstgpt.COLUMNS}
        return next((name for name, wanted in known.items() if columns.issuperset(wanted)), None)
    try:
        fields: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return next((name for name, tell in _TELL if tell(fields.keys())), None)


def _has(*wanted: str) -> Callable[[Any], bool]:
    return lambda fields: all(name in fields for name in wanted)


def _any(*wanted: str) -> Callable[[Any], bool]:
    return lambda fields: any(name in fields for name in wanted)


_TELL: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    (RECORDS, _has("kind", "recording")),
    ("otel", _has("resourceSpans")),
    ("qwen", _has("chat_id", "parent_chat_id")),
    ("agentic", _has("keep", "new")),
    (
        "aiperf",
        _any("turns", "text", "texts", "text_input", "messages", "payload", "delay"),
    ),
    ("aiperf", _has("session_id", "input_length")),
    ("mooncake", _has("timestamp", "input_length", "output_length")),
    ("aiperf", _has("input_length")),
)
