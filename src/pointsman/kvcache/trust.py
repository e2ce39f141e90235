"""How far an engine's view is to be trusted, from what its stream has shown.

The rules; the least of what they allow counts.

1. Nothing heard yet, neither a batch nor the end of a replay: 0.
2. Silent though it was handed work that should cause events: 0 until the next batch. An idle engine may be silent for
   ever. A request that the engine refused looks the same, at the cost of a guess until the next batch. How long a
   silence is too long depends on whether a lost connection would be noticed:
   :class:`~pointsman.kvcache.subscriber.SubscriberOptions`.
3. Batches lost on the way: the share of batches had since the engine was last known to be empty. What is held back
   behind a gap, or is still to be applied to the view, counts as lost for as long as it waits.
4. Batches sent before we came, which no replay could bring: the share of batches had, or the share of the engine's
   memory whose content is known, whichever is more. What is known then is right, and the second share grows as the
   engine overwrites what we never heard of. What it does not overwrite, such as a system prompt in constant use, is
   never announced again; neither it nor what lies behind it is counted as known.
5. Not level with the engine: at most :data:`BEHIND`. After a (re)connection nobody knows how much was missed, or
   whether it is the same process, until a replay has ended or everything up to a live batch is applied. A stream heard
   from sequence 0 is level at once; a replay that timed out before any live batch leaves the stream behind.
"""

from __future__ import annotations

BEHIND = 0.4
"""Below what anyone believes in (0.5), above what a snapshot is worth (0.3)."""


class Trust:
    """Counts of one stream. Times in seconds.

    Args:
        silent_after: silence after a request that should have caused events, before the stream is distrusted.
    """

    __slots__ = ("_awaited", "_before", "_known", "_lost", "_silent_after", "heard", "level")

    def __init__(self, silent_after: float) -> None:
        self._silent_after = silent_after
        self._awaited: float | None = None
        self.heard = self.level = False
        self.empty()

    def empty(self) -> None:
        """The engine is known to hold nothing: what was before does not matter any more."""
        self._known = self._lost = self._before = 0

    def had(self) -> None:
        """A batch was applied."""
        self.heard = True
        self._known += 1

    def lost(self, batches: int, *, at_start: bool) -> None:
        """Batches will never be had; ``at_start``: they are from before the first one that was."""
        if at_start:
            self._before += batches
        else:
            self._lost += batches

    def expect(self, now: float) -> None:
        """The engine was handed work that should cause events."""
        if self._awaited is None:
            self._awaited = now

    def alive(self) -> None:
        """Something came."""
        self._awaited = None

    def confidence(self, now: float, waiting: int, coverage: float, late: int = 0) -> float:
        """0 to 1.

        Args:
            now: seconds.
            waiting: batches missing or held back behind a gap.
            coverage: share of the engine's memory whose content is known, 0 to 1; 0 when not known.
            late: batches that count as applied and are still to be.
        """
        if not self.heard or (self._awaited is not None and now - self._awaited > self._silent_after):
            return 0.0
        share = _share(max(0, self._known - late), self._lost + waiting + late)
        if self._before:
            share *= max(_share(self._known, self._before), coverage)
        return share if self.level else min(share, BEHIND)


def _share(had: int, lacking: int) -> float:
    return had / (had + lacking) if lacking else 1.0
