"""Sessions of coding agents, each request as what it adds to the one before: JSON lines.

``session_id``; ``t``, seconds from the session's start; ``input_length``, ``output_length``; ``api_time``, seconds the
answer took; ``think_time``, seconds from the previous answer to this request; ``block_size``; ``keep``, leading blocks
shared with the session's previous request; ``new``, ids of the blocks after those. A flat form of the sessions of
github.com/callanjfox/kv-cache-tester. Ids count within a session (each begins with 1), so sessions share nothing.
Blocks are whole; the last tokens of a prompt, less than a block, are like no other.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Annotated

import msgspec

from pointsman.errors import TraceError
from pointsman.lab.traces.lines import Lines, json_lines
from pointsman.lab.traces.rows import Seconds, Tokens, TraceRow

_Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class AgenticLine(msgspec.Struct):
    """A line of the format."""

    session_id: str
    t: Seconds
    input_length: Tokens
    output_length: Tokens
    block_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    keep: Annotated[int, msgspec.Meta(ge=0)]
    new: list[_Id]
    think_time: Seconds | None = None
    api_time: Seconds | None = None


def rows(lines: Lines, block: int | None = None) -> Iterator[TraceRow]:
    """The requests of the file, session by session or mixed."""
    del block
    blocks: dict[str, int] = {}
    for number, line in json_lines(lines, AgenticLine):
        before = blocks.get(line.session_id)
        if line.keep > (before or 0):
            held = "is the first of its session" if before is None else f"had {before} blocks"
            raise TraceError(
                f"{line.keep} blocks to keep, but the request " + ("" if before is None else "before ") + held,
                line=number,
                field="keep",
            )
        count = blocks[line.session_id] = line.keep + len(line.new)
        if count * line.block_size > line.input_length + line.block_size:
            raise TraceError(
                f"{count} blocks of {line.block_size} tokens are more than input_length {line.input_length}",
                line=number,
                field="new",
            )
        yield TraceRow(
            line=number,
            at=line.t,
            input_length=line.input_length,
            output_length=line.output_length,
            ids=array("q", line.new),
            block=line.block_size,
            keep=line.keep,
            scope=line.session_id,
            session=line.session_id,
            think=line.think_time,
            end=None if line.api_time is None else line.t + line.api_time,
        )
