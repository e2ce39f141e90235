"""BurstGPT: CSV with ``Timestamp``, ``Model``, ``Request tokens``, ``Response tokens``, ``Total tokens``, ``Log Type``.

Source: github.com/HPMLL/BurstGPT, README ("contains all of our trace ... with some failure that Response tokens are
0s"), and AIPerf's documentation (Profile with BurstGPT Traces): time stamps are seconds, each row is a request of its
own. Failures are left out, so the two kinds of files give the same requests. Nothing tells what prompts have in
common, so every prompt is like no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.lab.traces.lines import Lines, csv_lines, seconds, token_count
from pointsman.lab.traces.rows import TraceRow

TIME, REQUEST, RESPONSE = COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def rows(lines: Lines, block: int | None = None) -> Iterator[TraceRow]:
    """The requests of the file that did not fail."""
    del block
    for number, line in csv_lines(lines, COLUMNS):
        answer = token_count(number, line, RESPONSE)
        asked, at = token_count(number, line, REQUEST), seconds(number, line, TIME)
        if answer:
            yield TraceRow(line=number, at=at, input_length=asked, output_length=answer)
