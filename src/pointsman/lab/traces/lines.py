"""Lines of a trace file, plain or compressed, one at a time; and the two ways to take one apart."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import msgspec

from pointsman.errors import TraceError
from pointsman.lab.traces.rows import MAX_TOKENS

MAX_LINE = 64 << 20
"""Bytes of one line; a 10 M token prompt in 16-token blocks is some 5 MB of ids."""

Lines = Iterator[tuple[int, bytes]]
"""Line number from 1, and the line without its end; empty lines are left out."""
T = TypeVar("T")
_GZIP = b"\x1f\x8b"
_SHOWN = 60


def read_lines(path: Path) -> Lines:
    """The file's lines; a gzip file is known by its first bytes.

    Raises:
        TraceError: if it cannot be read, is cut off within its compressed data, or has a line over ``MAX_LINE``.
    """
    number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise TraceError(f"a line of more than {MAX_LINE >> 20} MiB", line=number, hint=_one_per_line())
                line = line.strip()
                if line:
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"the compressed data is damaged or cut off: {error}", line=number + 1) from error
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror or error}") from error


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    return cast("BinaryIO", gzip.open(path, "rb")) if compressed else path.open("rb")


def _one_per_line() -> str:
    return "one JSON value a line is wanted, as `jq -c .` writes it"


def json_lines(lines: Lines, kind: type[T]) -> Iterator[tuple[int, T]]:
    """Each line as JSON of that type.

    Raises:
        TraceError: with the line, the field where one is known, and what was expected.
    """
    decoder = msgspec.json.Decoder(kind)
    for number, line in lines:
        try:
            yield number, decoder.decode(line)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            raise TraceError(message, line=number, field=path.rstrip("`").lstrip(".") or None) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            hint = _one_per_line() if line in {b"{", b"["} else None
            raise TraceError(f"no JSON: {error}, in {_shown(line)}", line=number, hint=hint) from error


def csv_lines(lines: Lines, wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each line after the header as a mapping of column names.

    Raises:
        TraceError: if a wanted column is missing, or a line has more or fewer fields than the header.
    """
    number, header = next(lines, (1, b""))
    names = _fields(number, header.removeprefix(b"\xef\xbb\xbf"))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise TraceError(f"no column {', '.join(missing)} in {_shown(header)}", line=number)
    for number, line in lines:
        fields = _fields(number, line)
        if len(fields) != len(names):
            raise TraceError(f"{len(fields)} fields where the header has {len(names)}: {_shown(line)}", line=number)
        yield number, dict(zip(names, fields, strict=True))


def _fields(number: int, line: bytes) -> list[str]:
    try:
        found = next(csv.reader([line.decode()], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"no line of a CSV file: {error}, in {_shown(line)}", line=number) from error
    return [field.strip() for field in found]


def token_count(number: int, row: dict[str, str], name: str) -> int:
    """A length from a CSV file.

    Raises:
        TraceError: unless it is a whole number from 0 to ``MAX_TOKENS``.
    """
    found = row[name]
    whole = found.removesuffix(".0")  # as pandas writes whole numbers of a column with gaps
    # Eighteen digits at most: int() of a text of thousands takes long, and refuses more than 4300.
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 18 and int(whole) <= MAX_TOKENS):
        raise TraceError(
            f"expected a whole number from 0 to {MAX_TOKENS}, got {found[:_SHOWN]!r}", line=number, field=name
        )
    return int(whole)


def seconds(number: int, row: dict[str, str], name: str) -> float:
    """A time from a CSV file.

    Raises:
        TraceError: unless it is a number from 0 to 1e12.
    """
    try:
        found = float(row[name])
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1e12:
        raise TraceError(f"expected seconds as a number from 0, got {row[name][:_SHOWN]!r}", line=number, field=name)
    return found


def _shown(line: bytes) -> str:
    text = line[:_SHOWN].decode("utf-8", "replace")
    return repr(text + ("…" if len(line) > _SHOWN else ""))
