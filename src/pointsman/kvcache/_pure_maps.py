"""The Python twins of a pod view's maps: a cell's blocks, and own keys counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pointsman.kvcache._pure import checked_keys


class BlockMap:
    """Live blocks of one engine in one place: hash to own key, and copies. Hashes and keys are unsigned 64-bit."""

    def __init__(self) -> None:
        self._keys: dict[int, int | None] = {}
        self._copies: dict[int, int] = {}  # only where that is above 1

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, hashed: object) -> bool:
        return hashed in self._keys

    @property
    def spare(self) -> int:
        """Copies beyond the first of each block."""
        return sum(self._copies.values()) - len(self._copies)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, roughly: a dict's entry and its two numbers."""
        return 140 * len(self._keys) + 140 * len(self._copies)

    def add(
        self, hashes: Sequence[int], keys: Sequence[int | None], most: int | None, /
    ) -> tuple[Sequence[int | None], bool]:
        """Enter blocks, or count another copy of those that live, up to ``most`` (None: no bound).

        Returns:
            The keys that are new (the very ``keys`` when all are), and whether a live block without a key could get
            its own from ``keys`` (see :meth:`fill`).

        Raises:
            ValueError: if there are not as many keys as hashes.
            TypeError: on what is no number.
            OverflowError: on what does not fit.
        """
        hashes = checked_keys(hashes)
        checked_keys(
            [key for key in keys if key is not None] if isinstance(keys, list) else cast("Sequence[int]", keys)
        )
        if len(hashes) != len(keys):
            raise ValueError("as many keys as hashes are wanted")
        new, late, own = [], False, self._keys
        for hashed, key in zip(hashes, keys, strict=True):
            if hashed not in own:
                own[hashed] = key
                if key is not None:
                    new.append(key)
                continue
            count = self._copies.get(hashed, 1) + 1
            if most is None or most < 0 or count <= most:
                self._copies[hashed] = count
            late = late or (key is not None and own[hashed] is None)
        return (keys if len(new) == len(keys) else new), late

    def remove(self, hashes: Sequence[int], /) -> tuple[list[int], int, list[int]]:
        """Take one copy of each away: the keys that went, how many blocks were not there, and hashes without a key."""
        gone, missing, unkeyed = [], 0, []
        for hashed in checked_keys(hashes):
            count = self._copies.get(hashed)
            if hashed not in self._keys:
                missing += 1
            elif count is None:
                key = self._keys.pop(hashed)
                unkeyed.append(hashed) if key is None else gone.append(key)
            elif count > 2:
                self._copies[hashed] = count - 1
            else:
                del self._copies[hashed]
        return gone, missing, unkeyed

    def fill(self, hashed: int, key: int, /) -> bool:
        """Give a live block without a key its own; whether there was one."""
        checked_keys([hashed, key])
        if hashed not in self._keys or self._keys[hashed] is not None:
            return False
        self._keys[hashed] = key
        return True

    def get(self, hashed: int, /) -> int | None:
        """Own key of a block; None when there is none, or no such block."""
        checked_keys([hashed])
        return self._keys.get(hashed)

    def hashes(self) -> list[int]:
        """Live hashes, in no order."""
        return list(self._keys)

    def own(self) -> list[int]:
        """Own keys, in no order."""
        return [key for key in self._keys.values() if key is not None]

    def distrust(self) -> None:
        """Every block has one copy from now on."""
        self._copies.clear()


class KeyCounts:
    """Own keys and how often each is held."""

    def __init__(self) -> None:
        self._times: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._times)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, roughly."""
        return 70 * len(self._times)

    def hold(self, keys: Any, /) -> Any:
        """Hold keys once more; those not held before (the very ``keys`` when that is all of them)."""
        times, new = self._times, []
        for key in checked_keys(keys):
            count = times.get(key, 0)
            times[key] = count + 1
            if not count:
                new.append(key)
        return keys if len(new) == len(keys) else new

    def release(self, keys: Any, /) -> Any:
        """Hold keys once less; those not held any more (the very ``keys`` when that is all of them)."""
        times, gone = self._times, []
        for key in checked_keys(keys):
            count = times.get(key, 0)
            if count == 1:
                del times[key]
                gone.append(key)
            elif count:
                times[key] = count - 1
        return keys if len(gone) == len(keys) else gone


def read_events(*_: Any) -> Any:
    """Never anything: a third decoder in Python would gain nothing over the two of ``events.py``."""
    return None
