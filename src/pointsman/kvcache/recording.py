"""Recorded event streams: JSON lines of multipart messages, followed as if they came now."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from pointsman.errors import ConfigError
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.following import END_OF_REPLAY, Following, read
from pointsman.kvcache.kv_index import KVIndex
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.sources import parse_topic
from pointsman.kvcache.stream_types import StreamOptions

MAX_STREAMS = 65_536
_PATIENCE = StreamOptions(reorder=1e18)  # in a file, only what follows can tell whether a batch comes late


class _Line(msgspec.Struct):
    frames: list[str]
    src: str = ""
    t: float = 0.0
    dir: str = "recv"


class Query(msgspec.Struct, frozen=True):
    """Prompts to look up at the end of a recording."""

    prompts: Sequence[Sequence[int]] = ()
    adapter: str | None = None
    salt: str | None = None


class RankSummary(msgspec.Struct, omit_defaults=True):
    """What one engine's stream came to."""

    live: dict[str, int]
    """Live blocks by ``MEDIUM/GROUP``."""
    batches: int
    gaps: int
    restarts: int
    skipped: dict[str, int]
    confidence: float
    block_size: int
    matched: list[int] | None = None
    """Leading blocks of each query's prompt that are live."""


class Recording:
    """Follows recorded messages line by line.

    Args:
        name: of the file, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._decode = msgspec.json.Decoder(_Line).decode
        self._streams: dict[str, dict[int, tuple[Following, PodView, int]]] = {}  # by source and rank; last: the slot
        self._index = KVIndex()
        self._slots = 0

    def feed(self, lines: Iterable[bytes]) -> None:
        """Follow all lines.

        Raises:
            ConfigError: at the first line that is no recorded message.
        """
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                self._message(self._decode(line))
            except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
                raise ConfigError(f"no recorded message: {error}", source=self._name, line=number) from error

    def finish(self, query: Query | None = None) -> dict[str, dict[str, RankSummary]]:
        """What each source's ranks came to, once nothing more will come."""
        summary: dict[str, dict[str, RankSummary]] = {}
        for source, ranks in self._streams.items():
            for rank in sorted(ranks):
                following, view, slot = ranks[rank]
                following.act(following.stream.tick(math.inf))
                summary.setdefault(source, {})[str(rank)] = self._summarise(following, view, slot, query)
        return summary

    def _message(self, line: _Line) -> None:
        frames = [bytes.fromhex(frame) for frame in line.frames]
        if line.dir == "send":
            return
        if len(frames) > 1 and not frames[0] and (len(frames) == 4 or frames[1] == END_OF_REPLAY):
            frames = frames[1:]  # a replay's answer
        if frames[1:2] == [END_OF_REPLAY] or frames[0:1] == [END_OF_REPLAY]:
            return
        if len(frames) != 3 or len(frames[1]) != 8:
            raise ValueError("three frames are wanted: topic, sequence number (8 bytes), payload")
        source = line.src or (parse_topic(frames[0]) or (frames[0].decode(),))[0]
        batch = read(frames[2])
        following = self._following(source, None if batch is None else batch.rank)
        following.message(int.from_bytes(frames[1], "big"), batch, line.t, line.t)

    def _following(self, source: str, rank: int | None) -> Following:
        ranks = self._streams.setdefault(source, {})
        if rank is None:  # unreadable: its rank is not known either
            rank = next(iter(ranks), 0)
        if rank not in ranks:
            if self._slots == MAX_STREAMS:
                raise ValueError(f"more than {MAX_STREAMS} sources and ranks")
            slot, self._slots = self._slots, self._slots + 1
            # Copies without bound: the count of a recording is exact, whatever the engine announced twice.
            view = PodView(self._index, slot, "", max_copies=None)
            ranks[rank] = Following(source, rank, view, _PATIENCE, _cannot_ask), view, slot
        return ranks[rank][0]

    def _summarise(self, following: Following, view: PodView, slot: int, query: Query | None) -> RankSummary:
        stats = following.stream.stats
        skipped = dict(following.skipped)
        if stats.bad:
            skipped["bad-payload"] = stats.bad
        if stats.duplicates:
            skipped["duplicate-batch"] = stats.duplicates
        matched = None
        if query is not None:
            matched = [0] * len(query.prompts)
            if view.block_size:
                root = root_key("", query.adapter, query.salt)
                keys = (token_block_keys(prompt, view.block_size, root) for prompt in query.prompts)
                matched = [self._index.match(prompt_keys).of(slot) for prompt_keys in keys]
        return RankSummary(
            live={f"{medium}/{group}": count for (medium, group), count in view.live.items()},
            batches=stats.batches,
            gaps=stats.gaps,
            restarts=stats.restarts,
            skipped=skipped,
            confidence=round(following.stream.confidence(0.0), 4),
            block_size=view.block_size,
            matched=matched,
        )


def _cannot_ask(start: int) -> None:
    """A file has nobody to ask; the stream knows and does not."""
