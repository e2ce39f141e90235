"""Reads from the shared index what this replica does not hear itself, and follows how it changes."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pointsman.clock import Clock
from pointsman.kvcache.shared_changes import TIERS
from pointsman.kvcache.shared_keys import KEY_BYTES, SCAN, Names, parse_holder
from pointsman.kvcache.shared_link import Call, Entry, Link, Note, Refused
from pointsman.kvcache.snapshot import unpack
from pointsman.kvcache.told import Memory, Told

LIVE_CONFIDENCE = 0.9
"""At most, in what another replica hears and writes at this moment: it comes a quarter of a second late."""
LIVE_SECONDS = 6.0
"""For how long a sign of life of a holder's writer counts."""
SCAN_KEYS = 4096
"""Keys asked for at once: 1 ms of the index."""
AT_ONCE = 8
"""Sets read side by side in one pipeline."""
PROGRESS_BLOCKS = 1_000_000
MAX_MODELS = 256
_FIELDS = ("version", "whole", "block_size", "models", "confidence", "wall")


class _Open:
    """A holder that is followed."""

    __slots__ = ("slot", "stale", "version")

    def __init__(self, slot: int, version: int) -> None:
        self.slot, self.version = slot, version
        self.stale = False


class Reader:
    """Keeps a memory like the store, for the holders that the memory wants.

    Args:
        names: keys of the scope.
        memory: where it goes.
        clock: time.
        keep: seconds for which something stored is worth to be read.
        note: told of progress.
    """

    def __init__(self, names: Names, memory: Memory, clock: Clock, keep: float, note: Note) -> None:
        self.counts: Counter[str] = Counter()
        self._names, self._memory, self._clock, self._keep, self._note = names, memory, clock, keep, note
        self._open: dict[str, _Open] = {}
        self._last: bytes | None = None

    @property
    def following(self) -> bool:
        """Whether there is a reason to listen to the log."""
        return bool(self._open)

    def offline(self) -> None:
        """The connection is gone: what was read stays as a memory, and is read again later."""
        self._last = None
        for one in self._open.values():
            one.stale = True

    def reset(self) -> None:
        """The memory was thrown away."""
        self._open.clear()
        self._last = None

    async def sweep(self, link: Link) -> None:
        """Read what is wanted and not had, leave what is not wanted any more.

        Raises:
            LinkDownError: if there is no connection.
        """
        for name in [name for name in self._open if not self._wanted(name)]:
            del self._open[name]  # the memory keeps what it wants to keep
        stored = await link.holders(self._names.holders)
        self.counts["bad-holder"] += sum(parse_holder(name) is None for name in stored)
        names = [name.decode() for name in stored if parse_holder(name) is not None]
        missing = [name for name in names if self._wanted(name) and self._is_missing(name)]
        if missing and self._last is None:
            self._last = await link.newest(self._names.log)  # before reading, so that nothing falls between
        if missing:
            await self._load(link, missing)
        if not self._open:
            self._last = None

    async def follow(self, link: Link, wait: float) -> None:
        """Take in what the log says, waiting up to ``wait`` seconds for it; reads anew what it left a gap in.

        Raises:
            LinkDownError: if there is no connection.
        """
        if self._last is None:
            return
        for entry in await link.follow(self._names.log, self._last, wait):
            self._last = entry[0]
            self._take(entry)
            await asyncio.sleep(0)  # 8,192 keys take 1 ms
        stale = [name for name, one in self._open.items() if one.stale]
        if stale:
            await self._load(link, stale)

    def _wanted(self, name: str) -> bool:
        who = parse_holder(name.encode())
        return who is not None and self._memory.wants(*who)

    def _is_missing(self, name: str) -> bool:
        one = self._current(name)
        return one is None or one.stale

    def _current(self, name: str) -> _Open | None:
        """An open holder whose slot is still its own; what the memory dropped is dropped here."""
        one, who = self._open.get(name), parse_holder(name.encode())
        if one is None or who is None or self._memory.slot_of(*who) != one.slot:
            self._open.pop(name, None)
            return None
        return one

    # -- the log --------------------------------------------------------------------------------------------------

    def _take(self, entry: Entry) -> None:
        fields = entry[1]
        name = fields.get(b"h", b"")
        who = parse_holder(name)
        version, confidence = _whole(fields.get(b"v")), _share(fields.get(b"x"))
        if who is None or version is None or confidence is None:
            self.counts["bad-entry"] += 1
            return
        one = self._current(name.decode())
        kind = fields.get(b"k")
        if one is None:
            return
        if kind == b"gone":
            del self._open[name.decode()]
            self._memory.drop(*who)
        elif kind == b"alive" or version <= one.version:
            one.stale = one.stale or version > one.version
        elif kind == b"delta" and version == one.version + 1 and not one.stale:
            one.version = version
            one.stale = not self._apply(one.slot, fields)
        else:
            self.counts["gaps"] += kind == b"delta" and not one.stale
            one.stale = True
        if kind != b"gone":
            self._trust(who, confidence)

    def _apply(self, slot: int, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a change made sense; nothing of it is used if not."""
        stored = [fields.get(b"s%d" % tier, b"") for tier in TIERS]
        discarded = [fields.get(b"d%d" % tier, b"") for tier in TIERS]
        cleared = fields.get(b"c", b"")
        if any(len(blob) % KEY_BYTES for blob in stored + discarded) or cleared.strip(b"012"):
            self.counts["bad-entry"] += 1
            return False
        index = self._memory.index
        for digit in cleared:
            index.clear(slot, digit - ord("0"))
        for tier in TIERS:
            index.store(slot, tier, unpack(stored[tier]))
            index.discard(slot, tier, unpack(discarded[tier]))
        self.counts["deltas"] += 1
        return True

    def _trust(self, who: tuple[str, int], confidence: float) -> None:
        self._memory.trust(*who, min(LIVE_CONFIDENCE, confidence), self._clock.now() + LIVE_SECONDS)

    # -- reading whole --------------------------------------------------------------------------------------------

    async def _load(self, link: Link, names: Sequence[str]) -> None:
        """Read holders whole. Changes made meanwhile come by the log, in order, so that the end is right."""
        metas = await link.meta([self._names.meta(name) for name in names], _FIELDS)
        loaded: dict[str, tuple[_Open, Told]] = {}
        for name, values in zip(names, metas, strict=True):
            self._open.pop(name, None)
            told = self._told(name, values)
            if told is None or not told.whole:
                continue  # expired, none of ours, or a rewrite is under way: the next sweep looks again
            age = max(0.0, self._clock.wall() - told.wall)
            slot = self._memory.open(told, self._clock.now() + max(0.0, self._keep - age))
            if slot >= 0:
                one = self._open[name] = _Open(slot, told.version)
                loaded[name] = one, told
        if loaded:
            blocks = await self._load_sets(link, [(n, one, tier) for n, (one, _) in loaded.items() for tier in TIERS])
            self.counts["loads"] += len(loaded)
            self.counts["loaded-blocks"] += blocks
            self._note("shared index read", {"blocks": blocks, "pods": len(loaded)})
        for name, (one, told) in loaded.items():
            if self._open.get(name) is one and self._clock.wall() - told.wall < LIVE_SECONDS:
                self._trust((told.pod, told.rank), told.confidence)

    async def _load_sets(self, link: Link, sets: list[tuple[str, _Open, int]]) -> int:
        waiting = [(name, one, tier, b"0") for name, one, tier in reversed(sets)]
        blocks, said = 0, 0
        while waiting:
            now, waiting = waiting[-AT_ONCE:], waiting[:-AT_ONCE]
            calls = [Call(SCAN, (self._names.tier(name, tier),), (cursor, SCAN_KEYS)) for name, _, tier, cursor in now]
            for (name, one, tier, _), answer in zip(now, await link.run(calls), strict=True):
                if self._current(name) is not one:
                    continue  # dropped meanwhile; its slot may be another's
                found = self._scanned(answer)
                if found is None:
                    continue
                cursor, keys = found
                self._memory.index.store(one.slot, tier, unpack(keys))
                blocks += len(keys) // KEY_BYTES
                if cursor != b"0":
                    waiting.append((name, one, tier, cursor))
                await asyncio.sleep(0)  # 4,096 keys take 1 ms
            if blocks - said >= PROGRESS_BLOCKS:
                said = blocks
                self._note("shared index being read", {"blocks": blocks, "sets_left": len(waiting)})
        return blocks

    def _scanned(self, answer: Any) -> tuple[bytes, bytes] | None:
        """Cursor and keys; None for what is no set of ours."""
        if isinstance(answer, Refused):
            self.counts["bad-set"] += 1
            return None
        cursor, keys, bad = answer
        self.counts["bad-member"] += bad
        return cursor, keys

    def _told(self, name: str, values: Any) -> Told | None:
        """What a hash says; None, counted unless it is not there, if it is none of ours."""
        who = parse_holder(name.encode())
        if isinstance(values, Refused) or who is None:
            self.counts["bad-meta"] += 1
            return None
        if values[0] is None:
            return None  # expired
        version, whole, size = _whole(values[0]), _whole(values[1]), _whole(values[2])
        confidence, wall = _share(values[4]), _number(values[5])
        try:
            models = msgspec.json.decode(values[3] or b"[]", type=tuple[str, ...])
        except (msgspec.MsgspecError, UnicodeError):
            models = None
        if version is None or whole is None or size is None or models is None or confidence is None or wall is None:
            self.counts["bad-meta"] += 1
            return None
        return Told(*who, version, whole == 1, size, models[:MAX_MODELS], confidence, wall)


def _whole(text: bytes | None) -> int | None:
    return int(text) if text and len(text) < 20 and text.isdigit() else None


def _number(text: bytes | None) -> float | None:
    try:
        number = float(text or b"")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _share(text: bytes | None) -> float | None:
    number = _number(text)
    return number if number is not None and 0 <= number <= 1 else None
