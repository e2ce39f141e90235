"""Usage: the token counts at the end of an answer, found without parsing what comes before.

Engines put ``usage`` into the last JSON object of an answer: at the end of a plain body, or in the last ``data:`` line
before ``[DONE]`` of an event stream. Keeping the last few kilobytes is enough, wherever chunks were cut.
"""

from __future__ import annotations

import re

import msgspec

from pointsman.api.result import Usage

TAIL_BYTES = 4096

_STRING_OR_BRACE = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


_DECODER = msgspec.json.Decoder(_Usage)


class UsageTail:
    """Keeps the tail of an answer and reads the usage from it."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body."""
        self._tail = chunk[-TAIL_BYTES:] if len(chunk) >= TAIL_BYTES else (self._tail + chunk)[-TAIL_BYTES:]

    def ends_with(self, mark: bytes) -> bool:
        """Whether the body seen so far ends so (``mark`` of at most the tail's length)."""
        return self._tail.endswith(mark)

    def read(self) -> Usage:
        """The last usage object seen; all None when there was none."""
        tail = self._tail
        at = tail.rfind(b'"usage"')
        while at >= 0:
            found = _object_after(tail, at + len(b'"usage"'))
            if found is not None:
                return found
            at = tail.rfind(b'"usage"', 0, at)
        return Usage()


def _object_after(data: bytes, start: int) -> Usage | None:
    begin = data.find(b"{", start)
    if begin < 0 or data[start:begin].strip() != b":":
        return None
    try:
        usage = _DECODER.decode(data[begin : _object_end(data, begin)])
    except (msgspec.MsgspecError, RecursionError):
        return None
    details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    return Usage(
        usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens,
        usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens,
        details.cached_tokens,
    )


def _object_end(data: bytes, begin: int) -> int:
    """Where the object that begins there ends; braces inside strings do not count."""
    depth = 0
    for found in _STRING_OR_BRACE.finditer(data, begin):
        depth += {b"{": 1, b"}": -1}.get(found.group(), 0)
        if not depth:
            return found.end()
    return len(data)
