"""What every trace format is read into: one row per request."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Annotated

import msgspec

MAX_TOKENS = 10_000_000
"""Longest prompt or answer that is believed; more is taken for a broken line."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
"""A length in a trace."""
Millis = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
"""A time in a trace, in milliseconds."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
"""A time in a trace, in seconds."""
BlockId = int | str
"""Name of a block of tokens."""


class TraceRow(msgspec.Struct, kw_only=True):
    """One request of a trace.

    What the prompt is made of, first that applies: ``text``; ``ids``; ``stream``; nothing, so it is like no other.

    Attributes:
        line: of the file, from 1.
        at: when it was sent, seconds from whatever the trace counts from; None when the trace does not say.
        input_length: prompt tokens; without ``delta`` those of the whole prompt.
        output_length: tokens of the answer.
        ids: names of the prompt's blocks, in order; the same name stands for the same tokens.
        block: tokens in each block.
        keep: None: ``ids`` are all; else they follow so many leading blocks of the session's previous request.
        scope: names of blocks mean something within it alone; ``""`` for the whole trace.
        stream: prompts of the same stream begin alike, the shorter is a prefix of the longer.
        text: tokens of a prompt whose text is known.
        delta: prompt and answer of the session's previous request come first.
        session: conversation, ``""`` for none.
        think: seconds from the end of the previous answer to this request.
        end: when the answer was complete, in the same time as ``at``.
        spread: seconds the time stamp stands for; the request came at some time within.
    """

    line: int
    at: float | None
    input_length: int
    output_length: int
    ids: Sequence[BlockId] = ()
    block: int = 0
    keep: int | None = None
    scope: str = ""
    stream: str = ""
    text: array[int] | None = None
    delta: bool = False
    session: str = ""
    think: float | None = None
    end: float | None = None
    spread: float = 0.0
