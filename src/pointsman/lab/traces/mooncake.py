"""Mooncake's trace format: JSON lines with ``timestamp``, ``input_length``, ``output_length``, ``hash_ids``.

Source: github.com/kvcache-ai/Mooncake, FAST25-release/traces, and its README ("Open Source Trace"): time stamps are
milliseconds from the start, ids name blocks of 512 tokens and are the same wherever the same block with the same
blocks before it was seen. Others write the format with blocks of other sizes. AIPerf's documentation (Trace Replay
with Mooncake Traces) makes ``hash_ids`` optional.

The published traces stamp requests every 3 s, give or take 3 ms, a batch at a time: a row stamped so came at some time
in the 3 s from there.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pointsman.errors import TraceError
from pointsman.lab.traces.lines import Lines, json_lines
from pointsman.lab.traces.rows import BlockId, Millis, Tokens, TraceRow

BLOCK = 512
BATCH_MS = 3000
_OFF_MS = 5


class MooncakeLine(msgspec.Struct):
    """A line as documented."""

    timestamp: Millis
    input_length: Tokens
    output_length: Tokens
    hash_ids: list[BlockId] = []


def rows(lines: Lines, block: int | None = None) -> Iterator[TraceRow]:
    """The requests of the file.

    Args:
        lines: of the file.
        block: tokens in a block, if not 512.
    """
    size = block or BLOCK
    for number, line in json_lines(lines, MooncakeLine):
        check_ids(number, line.hash_ids, line.input_length, size)
        yield TraceRow(
            line=number,
            at=line.timestamp / 1000,
            input_length=line.input_length,
            output_length=line.output_length,
            ids=line.hash_ids,
            block=size,
            spread=BATCH_MS / 1000 if (line.timestamp + _OFF_MS) % BATCH_MS <= 2 * _OFF_MS else 0.0,
        )


def check_ids(number: int, ids: list[BlockId], length: int, block: int) -> None:
    """Refuse a line whose ids name at least a block more than the prompt is long: the blocks must be smaller.

    Raises:
        TraceError: with the sizes that would fit.
    """
    if len(ids) > -(-length // block) + 1:
        raise TraceError(
            f"{len(ids)} blocks of {block} tokens are more than input_length {length}",
            line=number,
            field="hash_ids",
            hint=f"--block-size {max(1, length // len(ids))} or so, if the trace has smaller blocks",
        )
