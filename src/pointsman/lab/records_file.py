"""Reads files of records: line by line, in the order in which they were written, over as many files as there are."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pointsman.errors import TraceError
from pointsman.observability.record_files import full_files, records_path
from pointsman.observability.record_lines import VERSION, HeadLine, PodLine, RecordLine, RequestLine, unpack

MAX_LINE = 64 * 1024 * 1024
MAX_TOKENS = 10_000_000
"""Longest prompt that is believed."""
KNOWN_OUTPUTS = 20_000
"""Lengths of answers kept, to draw from for those that nobody looked at."""

_DECODER: msgspec.json.Decoder[RecordLine] = msgspec.json.Decoder(RecordLine)


class Entry(msgspec.Struct, frozen=True):
    """A request, and under which head it stands.

    ``arrival`` is in seconds since 1970, by the picker's clock since it started.
    """

    head: HeadLine
    line: RequestLine
    arrival: float


class Observed(msgspec.Struct):
    """What the engines did, as far as it was looked at."""

    ttft_ms: array[float] = msgspec.field(default_factory=lambda: array("d"))
    total_ms: array[float] = msgspec.field(default_factory=lambda: array("d"))
    answered: int = 0
    """With status 200, to the end."""
    prompt_tokens: int = 0
    """Of answers whose cached tokens are known."""
    cached_tokens: int = 0
    outputs: array[int] = msgspec.field(default_factory=lambda: array("I"))
    output_tokens: int = 0


class RecordsInfo(msgspec.Struct):
    """What there is to know of records before they are replayed.

    Attributes:
        path: as given.
        files: in order.
        requests: in all.
        began: the first arrival, seconds since 1970.
        duration: from it to the last one, seconds.
        lateness: how far at most a request stands behind one that arrived later, seconds.
        pods: that answered or were chosen, with what is known of them.
        adapters: seen.
        sample: smallest share recorded.
        policies: requests by the configuration in force.
        configs: the configurations themselves.
        exact: requests whose tokens were known.
        observed: measurements.
    """

    path: Path
    files: list[Path]
    requests: int = 0
    began: float = 0.0
    duration: float = 0.0
    lateness: float = 0.0
    pods: dict[str, PodLine] = {}
    adapters: set[str] = set()
    sample: float = 1.0
    policies: Counter[str] = msgspec.field(default_factory=Counter)
    configs: dict[str, dict[str, Any]] = {}
    exact: int = 0
    observed: Observed = msgspec.field(default_factory=Observed)

    @property
    def policy(self) -> str:
        """The configuration most requests were decided by."""
        return self.policies.most_common(1)[0][0] if self.policies else ""


def record_files(path: Path) -> list[Path]:
    """The files that belong to ``path``: a folder, or the file that grows and the full ones beside it.

    Raises:
        TraceError: if there is none.
    """
    growing = records_path(path) if path.is_dir() else path
    files = [*full_files(growing), *([growing] if growing.is_file() else [])]
    if not files:
        raise TraceError("no such file of records", source=str(path), hint="`pointsman epp --records` writes them")
    return files


def read_entries(files: list[Path], pods: dict[str, PodLine] | None = None) -> Iterator[Entry]:
    """Requests in the order of their ends.

    Args:
        files: oldest first.
        pods: filled with what is read of endpoints.

    Raises:
        TraceError: naming file and line; only a last line that is not complete is left out, as the file may still grow.
    """
    for file in files:
        head: HeadLine | None = None
        for number, line in _lines(file):
            if isinstance(line, HeadLine):
                head = _checked_head(line, file, number)
            elif isinstance(line, PodLine):
                if pods is not None:
                    pods[line.id] = line
            elif head is None:
                raise TraceError("a request before any head", source=str(file), line=number)
            else:
                yield Entry(head, _checked(line, head, file, number), head.started + line.at)


def scan(path: Path) -> RecordsInfo:
    """Read all once, to know what is in it; memory does not grow with the file but for its measurements.

    Raises:
        TraceError: if it cannot be read, or there is no request in it.
    """
    info = RecordsInfo(path, record_files(path))
    known: dict[str, PodLine] = {}
    first, latest = float("inf"), float("-inf")
    for entry in read_entries(info.files, known):
        line = entry.line
        info.requests += 1
        first, latest = min(first, entry.arrival), max(latest, entry.arrival)
        info.lateness = max(info.lateness, latest - entry.arrival)
        info.sample = min(info.sample, entry.head.sample)
        info.policies[entry.head.policy] += 1
        info.configs[entry.head.policy] = entry.head.config
        info.exact += line.exact
        pod = line.served or line.pod
        info.pods[pod] = known.get(pod, PodLine(id=pod))
        if line.adapter:
            info.adapters.add(line.adapter)
        _measure(info.observed, line)
    if not info.requests:
        raise TraceError("no request in it", source=str(path))
    info.began, info.duration = first, latest - first
    return info


def _measure(seen: Observed, line: RequestLine) -> None:
    if line.status != 200 or line.cause != "complete":
        return
    seen.answered += 1
    seen.total_ms.append(line.total_ms)
    if line.ttft_ms is not None:
        seen.ttft_ms.append(line.ttft_ms)
    if line.cached_tokens is not None:
        seen.cached_tokens += line.cached_tokens
        seen.prompt_tokens += line.engine_prompt_tokens or line.prompt_tokens
    if line.output_tokens is not None:
        seen.output_tokens += line.output_tokens
        if len(seen.outputs) < KNOWN_OUTPUTS:
            seen.outputs.append(line.output_tokens)


def _lines(file: Path) -> Iterator[tuple[int, RecordLine]]:
    try:
        with file.open("rb") as opened:
            number = 0
            while text := opened.readline(MAX_LINE):
                number += 1
                if not text.strip():
                    continue
                try:
                    found = _DECODER.decode(text)
                except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                    if not text.endswith(b"\n") and len(text) < MAX_LINE:
                        return  # cut off: the last line, still being written or lost in a crash
                    raise TraceError(f"no line of records: {error}", source=str(file), line=number) from error
                yield number, found
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror}", source=str(file)) from error


def _checked_head(head: HeadLine, file: Path, number: int) -> HeadLine:
    if head.version > VERSION:
        raise TraceError(
            f"written in version {head.version} of the format, this reads {VERSION}",
            source=str(file), line=number, field="version", hint="take a newer Pointsman",
        )  # fmt: skip
    if not 1 <= head.block_tokens <= MAX_TOKENS:
        raise TraceError("must be at least 1", source=str(file), line=number, field="block_tokens")
    return head


def _checked(line: RequestLine, head: HeadLine, file: Path, number: int) -> RequestLine:
    def wrong(message: str, field: str) -> TraceError:
        return TraceError(message, source=str(file), line=number, field=field)

    if not 1 <= line.prompt_tokens <= MAX_TOKENS:
        raise wrong(f"must be 1 to {MAX_TOKENS}, got {line.prompt_tokens}", "prompt_tokens")
    for name in ("output_tokens", "cached_tokens", "max_tokens"):
        value = getattr(line, name)
        if value is not None and not 0 <= value <= MAX_TOKENS:
            raise wrong(f"must be 0 to {MAX_TOKENS}, got {value}", name)
    try:
        blocks = len(unpack(line.blocks))
    except ValueError as error:
        raise wrong(f"no hashes: {error}", "blocks") from error
    if blocks * head.block_tokens > line.prompt_tokens + head.block_tokens:
        raise wrong(f"{blocks} blocks are more than {line.prompt_tokens} tokens", "blocks")
    return line
