"""Our own records as a workload: what was asked of a live picker, asked again of simulated engines.

Prompts are made up from the recorded hashes, the same tokens for the same hash: they have in common what the real ones
had, in whole blocks of ``HeadLine.block_tokens``, and their lengths are the real ones as the picker knew them. Arrivals
are the recorded ones, whatever the answers do. How long an answer was is known of those that the picker looked at
(``observeShare``); the others get a length drawn from these, within their ``max_tokens``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from functools import lru_cache, partial
from hashlib import shake_128
from heapq import heappop, heappush, merge
from pathlib import Path

import msgspec

from pointsman.errors import ConfigError
from pointsman.lab.options import FleetOptions
from pointsman.lab.records_file import Entry, Observed, RecordsInfo, read_entries, scan
from pointsman.lab.requests import LabRequest
from pointsman.observability.record_lines import unpack
from pointsman.sim.profiles import EngineProfile

NO_OUTPUT_KNOWN = 256
"""Tokens of an answer when not one of the recording is known, nor a limit."""
PHASE = 60.0
"""Seconds over which copies of the users are spread, as for other traces."""
_BLOCKS = 32_768
SESSION_HEADER = "x-session-id"


class RecordedWorkload:
    """A file of records; can be pickled, and reads the file anew for each run.

    Args:
        info: of the file.
        speed: 2 halves the times between arrivals.
        slice: only arrivals from and to so many seconds after the first.
        scale_users: copies of all requests, each with prompts of its own.
        seed: of the made-up tokens and lengths.
        limit: only the first so many requests (of each copy).
    """

    def __init__(
        self,
        info: RecordsInfo,
        *,
        speed: float = 1.0,
        slice: tuple[float, float] | None = None,  # noqa: A002 - the flag's name
        scale_users: int = 1,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.info = info
        self.name = info.path.name if speed == 1 else f"{info.path.name} ×{speed:g}"
        self._speed, self._slice, self._users, self._seed, self._limit = speed, slice, scale_users, seed, limit

    def requests(self) -> Iterator[LabRequest]:
        """By arrival, from 0 on.

        Raises:
            TraceError: where a line cannot be read.
        """
        copies = [partial(self._copy, copy)() for copy in range(self._users)]
        return copies[0] if len(copies) == 1 else merge(*copies, key=lambda request: request.arrival)

    def follow(self, done: LabRequest, now: float) -> None:
        """Nothing: arrivals are as recorded."""
        del done, now

    def _copy(self, copy: int) -> Iterator[LabRequest]:
        phase = PHASE * copy / self._users
        begin, end = self._slice or (0.0, float("inf"))
        words = _Words(f"{self._seed}/{copy}")
        taken = 0
        for entry in in_order(self.info):
            at = entry.arrival - self.info.began
            if at >= end or taken == self._limit:
                return
            if at < begin or (entry.line.status is not None and 400 <= entry.line.status < 500):
                continue  # refused for what it was: engines did nothing for it
            taken += 1
            name = entry.line.id if not copy else f"{entry.line.id}+{copy}"
            yield _request(entry, f"{name}/{taken}", (at - begin + phase) / self._speed, words, self.info.observed)


def open_records(
    path: Path,
    *,
    speed: float = 1.0,
    slice: tuple[float, float] | None = None,  # noqa: A002 - the flag's name
    scale_users: int = 1,
    seed: int = 0,
    limit: int | None = None,
) -> RecordedWorkload:
    """The records at ``path`` as a :class:`RecordedWorkload`.

    Args:
        path: a folder, or the growing file, to which the full ones beside it belong.
        speed: as the others, see there.
        slice: from and to, seconds.
        scale_users: times the users.
        seed: of what is made up.
        limit: requests.

    Raises:
        TraceError: if they cannot be read, with file and line.
        ConfigError: for options that make no sense.
    """
    if not 0 < speed < float("inf"):
        raise ConfigError(f"must be above 0, got {speed}", field="--speed")
    if scale_users < 1:
        raise ConfigError(f"must be 1 or more, got {scale_users}", field="--scale-users")
    return RecordedWorkload(
        scan(path), speed=speed, slice=slice, scale_users=scale_users, seed=seed, limit=limit
    )  # fmt: skip


def in_order(info: RecordsInfo) -> Iterator[Entry]:
    """Requests by arrival. Files are in the order of ends; as much is held in memory as that is off by."""
    heap: list[tuple[float, int, Entry]] = []
    latest = float("-inf")
    for number, entry in enumerate(read_entries(info.files)):
        if number >= info.requests:
            break  # written since it was looked at
        latest = max(latest, entry.arrival)
        heappush(heap, (entry.arrival, number, entry))
        while heap and heap[0][0] < latest - info.lateness:
            yield heappop(heap)[2]
    while heap:
        yield heappop(heap)[2]


def recorded_fleet(info: RecordsInfo, options: FleetOptions) -> FleetOptions:
    """A fleet like the recorded one: as many pods (of a sample: its share), with the KV cache and limits told."""
    pods = max(1, round(len(info.pods) * info.sample))
    return msgspec.structs.replace(options, pods=pods, profile=recorded_profile(info, options.profile))


def recorded_profile(info: RecordsInfo, profile: EngineProfile) -> EngineProfile:
    """A profile with the block size, KV blocks and batch limit that most pods told of; the rest is as it was."""
    told = [pod for pod in info.pods.values() if pod.block_size and pod.num_blocks]
    if not told:
        return profile
    sizes = [(pod.block_size or 0, pod.num_blocks or 0) for pod in told]
    block, blocks = max(set(sizes), key=lambda size: (sizes.count(size), size))
    seqs = next((pod.max_num_seqs for pod in told if pod.max_num_seqs), None) or profile.max_num_seqs
    tokens = block * blocks
    longest = max(profile.max_model_len, tokens)
    return msgspec.structs.replace(
        profile, block_size=block, kv_tokens=tokens, max_num_seqs=seqs, max_model_len=longest
    )  # fmt: skip


class _Words:
    """Token ids by hash."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self.block = lru_cache(_BLOCKS)(self._make)

    def rest(self, request: str, count: int) -> bytes:
        """What no other prompt has, in bytes."""
        return shake_128(b"%b/%b" % (self._seed, request.encode())).digest(4 * count)

    def _make(self, recording: str, number: int, count: int) -> bytes:
        return shake_128(b"%b/%b/%d" % (self._seed, recording.encode(), number)).digest(4 * count)


def _request(entry: Entry, name: str, arrival: float, words: _Words, seen: Observed) -> LabRequest:
    line, head = entry.line, entry.head
    hashes, size = unpack(line.blocks), head.block_tokens
    data = b"".join([words.block(head.recording, number, size) for number in hashes])
    data = data[: 4 * line.prompt_tokens]
    tokens = array("I", data + words.rest(name, line.prompt_tokens - len(data) // 4))
    if sys.byteorder == "big":  # pragma: no cover - the same prompts on every machine
        tokens.byteswap()
    return LabRequest(
        id=name,
        arrival=arrival,
        tokens=tokens,
        max_tokens=_output(line.id, line.output_tokens, line.max_tokens, seen),
        adapter=line.adapter,
        session=line.session,
        headers={SESSION_HEADER: line.session} if line.session else {},
        priority=line.priority,
    )


def _output(name: str, known: int | None, limit: int | None, seen: Observed) -> int:
    if known is None:
        drawn = int.from_bytes(shake_128(name.encode()).digest(6), "little")
        known = seen.outputs[drawn % len(seen.outputs)] if seen.outputs else limit or NO_OUTPUT_KNOWN
        known = min(known, limit) if limit else known
    return max(1, known)
