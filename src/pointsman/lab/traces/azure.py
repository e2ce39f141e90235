"""Azure's LLM inference traces: CSV with ``TIMESTAMP``, ``ContextTokens``, ``GeneratedTokens``.

Source: github.com/Azure/AzurePublicDataset, AzureLLMInferenceDataset2023.md (conversation and code, Splitwise) and
AzureLLMInferenceDataset2024.md (a week, DynamoLLM). Time stamps are dates, in 2024 with an offset from UTC. Nothing
tells what prompts have in common, so every prompt is like no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pointsman.errors import TraceError
from pointsman.lab.traces.lines import Lines, csv_lines, token_count
from pointsman.lab.traces.rows import TraceRow

TIME, CONTEXT, GENERATED = COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def rows(lines: Lines, block: int | None = None) -> Iterator[TraceRow]:
    """The requests of the file."""
    del block
    for number, line in csv_lines(lines, COLUMNS):
        yield TraceRow(
            line=number,
            at=_time(number, line[TIME]),
            input_length=token_count(number, line, CONTEXT),
            output_length=token_count(number, line, GENERATED),
        )


def _time(number: int, text: str) -> float:
    """Seconds of a date such as ``2023-11-16 18:15:46.6805900``; without an offset it is UTC."""
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise TraceError(f"expected a date and time, got {text[:60]!r}", line=number, field=TIME) from error
