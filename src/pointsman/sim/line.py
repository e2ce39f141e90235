"""The waiting line of one simulated engine: first come, first served, but for those that wait for an adapter slot."""

from __future__ import annotations

from collections import deque

from pointsman.sim.sequence import Sequence


class WaitingLine:
    """Sequences to admit. Deferred ones stepped aside for a slot; they go back to the front when one is freed."""

    def __init__(self) -> None:
        self._line: deque[Sequence] = deque()
        self._deferred: list[Sequence] = []
        self._adapters: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._line) + len(self._deferred)

    @property
    def deferred(self) -> int:
        return len(self._deferred)

    @property
    def head(self) -> Sequence | None:
        return self._line[0] if self._line else None

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        """Append, or put in front (a preempted sequence)."""
        if front:
            self._line.appendleft(sequence)
        else:
            self._line.append(sequence)
        adapter = sequence.request.adapter
        if adapter is not None:
            self._adapters[adapter] = self._adapters.get(adapter, 0) + 1

    def pop(self) -> None:
        """Admit the head."""
        self._forget(self._line.popleft())

    def defer(self) -> None:
        """Let the head step aside."""
        self._deferred.append(self._line.popleft())

    def recall(self) -> None:
        """Put the deferred back in front."""
        self._line.extendleft(reversed(self._deferred))
        self._deferred.clear()

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that gave up."""
        if sequence in self._deferred:
            self._deferred.remove(sequence)
        else:
            self._line.remove(sequence)
        self._forget(sequence)

    def adapters(self) -> str:
        """Adapters of waiting requests, comma-joined."""
        return ",".join(sorted(self._adapters))

    def _forget(self, sequence: Sequence) -> None:
        adapter = sequence.request.adapter
        if adapter is None:
            return
        self._adapters[adapter] -= 1
        if not self._adapters[adapter]:
            del self._adapters[adapter]
