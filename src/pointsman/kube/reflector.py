"""What one list and watch makes of a stream of objects: the set as of now. Pure state, no I/O.

Events may come twice, late or in another order than they happened: an event that is older than what is known of its
object is passed over. Versions are compared where they are numbers, as Kubernetes' own are; where they are not, the
order of arrival counts. A list is the truth as it is: what it does not hold is gone, however that came about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from pointsman.errors import ConfigError
from pointsman.kube.objects import Identified, Identity

T = TypeVar("T")

MAX_GRAVES = 10_000
"""Deleted objects remembered between two lists, so that a late event does not bring one back."""

_identify = msgspec.json.Decoder(Identified).decode


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class Problem(msgspec.Struct, frozen=True, rename="camel"):
    """Kubernetes' answer when something cannot be had (a ``Status``)."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _Kept(msgspec.Struct, Generic[T], frozen=True):
    uid: str
    version: int | None
    value: T | None
    """None for an object that could never be read."""


class Reflector(Generic[T]):
    """The objects of one resource. Keys are ``namespace/name``."""

    def __init__(self, decode: Callable[[bytes], T], refuse: Callable[[str, str], None]) -> None:
        """Begin with nothing.

        Args:
            decode: JSON of one object to what is kept; raises ``msgspec.DecodeError`` or ``ConfigError``.
            refuse: told the key and the reason of each object that cannot be read; its last good form stays.
        """
        self._decode = decode
        self._refuse = refuse
        self._kept: dict[str, _Kept[T]] = {}
        self._graves: dict[str, int] = {}
        self._floor: int | None = None
        self.version = ""
        """Where a watch goes on; empty before the first list."""
        self.refused: frozenset[str] = frozenset()
        """Keys of the objects that cannot be read as they are now."""

    @property
    def synced(self) -> bool:
        """Whether there ever was a whole list."""
        return bool(self.version)

    @property
    def objects(self) -> Mapping[str, T]:
        """The readable objects by key."""
        return {key: kept.value for key, kept in self._kept.items() if kept.value is not None}

    def __len__(self) -> int:
        return sum(kept.value is not None for kept in self._kept.values())

    def replace(self, items: Sequence[bytes], version: str) -> bool:
        """Take a whole list; says whether anything changed."""
        before, first = self._kept, not self.synced
        self._kept, refused = {}, set()
        for raw in items:
            found = self._identify(raw)
            if found is None:
                continue
            key, meta = found
            old = before.get(key)
            value = self._read(key, raw, old if old is not None and old.uid == meta.uid else None)
            if value.bad:
                refused.add(key)
            self._kept[key] = _Kept(meta.uid, _number(meta.resource_version), value.value)
        self.refused = frozenset(refused)
        self._graves.clear()
        self._floor = _number(version)
        self.version = version
        return first or {k: v.value for k, v in before.items()} != {k: v.value for k, v in self._kept.items()}

    def apply(self, event: WatchEvent) -> bool:
        """Take an event of the watch, other than an error; says whether anything changed."""
        found = self._identify(bytes(event.object)) if event.type != "BOOKMARK" else None
        if found is None:
            self._move_on(_bookmark(event))
            return False
        key, meta = found
        version = _number(meta.resource_version)
        self._move_on(meta.resource_version)
        if self._is_stale(key, version):
            return False
        old = self._kept.get(key)
        if event.type == "DELETED":
            return self._bury(key, meta.uid, version)
        if event.type not in {"ADDED", "MODIFIED"}:
            return False
        read = self._read(key, bytes(event.object), old if old is not None and old.uid == meta.uid else None)
        self.refused = self.refused | {key} if read.bad else self.refused - {key}
        self._graves.pop(key, None)
        self._kept[key] = _Kept(meta.uid, version, read.value)
        return (old.value if old is not None else None) != read.value

    def _identify(self, raw: bytes) -> tuple[str, Identity] | None:
        try:
            meta = _identify(raw).metadata
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self._refuse("?", str(error))
            return None
        return f"{meta.namespace}/{meta.name}", meta

    def _read(self, key: str, raw: bytes, old: _Kept[T] | None) -> _Read[T]:
        try:
            return _Read(self._decode(raw))
        except (msgspec.DecodeError, ConfigError, UnicodeError, RecursionError) as error:
            self._refuse(key, str(error))
            return _Read(old.value if old is not None else None, bad=True)

    def _is_stale(self, key: str, version: int | None) -> bool:
        if version is None:
            return False
        old = self._kept.get(key)
        known = [self._floor, self._graves.get(key), old.version if old is not None else None]
        return any(number is not None and version <= number for number in known)

    def _bury(self, key: str, uid: str, version: int | None) -> bool:
        old = self._kept.get(key)
        if old is not None and uid and old.uid and uid != old.uid and version is None:
            return False  # the late end of an earlier object of the same name
        if version is not None:
            if len(self._graves) >= MAX_GRAVES:
                self._graves.pop(next(iter(self._graves)))
            self._graves[key] = version
        self.refused -= {key}
        return self._kept.pop(key, None) is not None

    def _move_on(self, version: str) -> None:
        """A watch that breaks off goes on behind the last event; a late one must not take it back."""
        now, new = _number(self.version), _number(version)
        if version and (now is None or new is None or new > now):
            self.version = version


class _Read(msgspec.Struct, Generic[T], frozen=True):
    value: T | None
    bad: bool = False


class _BookmarkMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: _BookmarkMeta = _BookmarkMeta()


def _bookmark(event: WatchEvent) -> str:
    try:
        return msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
    except msgspec.DecodeError:
        return ""


def _number(version: str) -> int | None:
    return int(version) if version.isascii() and version.isdecimal() else None
