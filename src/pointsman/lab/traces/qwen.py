"""Alibaba's traces of Qwen on Bailian: JSON lines with ``chat_id``, ``parent_chat_id``, ``timestamp`` and so on.

Source: github.com/alibaba-edu/qwen-bailian-usagetraces-anon, README: ``timestamp`` is seconds from the start,
``hash_ids`` are salted hashes of blocks of 16 tokens, ``parent_chat_id`` is -1 for the first request of a chat. Each
row's prompt is complete, history included (AIPerf's Bailian loader says so, too). The hash of a block does not
depend on the blocks before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from pointsman.lab.traces.lines import Lines, json_lines
from pointsman.lab.traces.mooncake import check_ids
from pointsman.lab.traces.rows import BlockId, Seconds, Tokens, TraceRow

BLOCK = 16
CHATS = 1_000_000
"""Requests whose chat is remembered, the latest; 200 bytes each."""


class QwenLine(msgspec.Struct):
    """A line as documented."""

    chat_id: int
    parent_chat_id: int
    timestamp: Seconds
    input_length: Tokens
    output_length: Tokens
    type: str = ""
    turn: int = 1
    hash_ids: list[BlockId] = []


def rows(lines: Lines, block: int | None = None) -> Iterator[TraceRow]:
    """The requests of the file; the session is the chat's first request."""
    size = block or BLOCK
    roots: OrderedDict[int, int] = OrderedDict()
    for number, line in json_lines(lines, QwenLine):
        check_ids(number, line.hash_ids, line.input_length, size)
        root = line.chat_id if line.parent_chat_id < 0 else roots.get(line.parent_chat_id, line.parent_chat_id)
        roots[line.chat_id] = root
        if len(roots) > CHATS:
            roots.popitem(last=False)
        yield TraceRow(
            line=number,
            at=line.timestamp,
            input_length=line.input_length,
            output_length=line.output_length,
            ids=line.hash_ids,
            block=size,
            session=str(root),
        )
