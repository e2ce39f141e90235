"""CycleState: what producers found out about one request, written once per typed key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar, overload

from pointsman.errors import StateError

T = TypeVar("T")
D = TypeVar("D")


class StateKey(Generic[T]):
    """A typed name in the CycleState.

    Two keys with the same name are the same key, so a plugin can name another's data without importing it:
    ``StateKey[PrefixMatch]("prefix-match/approx-prefix-cache-producer")``.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateKey) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"StateKey({self.name!r})"


class CycleState:
    """Facts about one scheduling cycle. Producers write before the state is sealed; everyone reads."""

    __slots__ = ("_sealed", "_values")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._sealed = False

    def write(self, key: StateKey[T], value: T) -> None:
        """Store a value.

        Raises:
            StateError: if the key is already written or the state is sealed.
        """
        if self._sealed:
            raise StateError(f"{key.name!r} written after the producers' phase")
        if key.name in self._values:
            raise StateError(f"{key.name!r} written twice")
        self._values[key.name] = value

    def read(self, key: StateKey[T]) -> T:
        """Read a value.

        Raises:
            StateError: if nobody wrote it.
        """
        try:
            value: T = self._values[key.name]
        except KeyError:
            raise StateError(f"{key.name!r} was never written") from None
        return value

    @overload
    def get(self, key: StateKey[T]) -> T | None: ...
    @overload
    def get(self, key: StateKey[T], default: D) -> T | D: ...
    def get(self, key: StateKey[T], default: D | None = None) -> T | D | None:
        """Read a value, or ``default`` when nobody wrote it."""
        value: T | D | None = self._values.get(key.name, default)
        return value

    def only(self, names: Iterable[str]) -> CycleState:
        """A state of one's own, not sealed, that begins with what is written here under ``names``."""
        other = CycleState()
        other._values = {name: self._values[name] for name in names if name in self._values}
        return other

    def plus(self, key: StateKey[T], value: T) -> CycleState:
        """The same facts, sealed, and one more in the place of what was known under its key."""
        other = CycleState()
        other._values = {**self._values, key.name: value}
        other._sealed = True
        return other

    def seal(self) -> None:
        """End the producers' phase: from here on the state is read-only."""
        self._sealed = True
