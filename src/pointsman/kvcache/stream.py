"""One engine's event stream as a state machine: order, gaps, replay, restarts, and how far the result can be trusted.

Batches of a stream are numbered from 0 by the engine process that sends them. They must be applied in order, because a
removal may refer to a store of the batch before. So after a gap what follows is held back, for a moment, while the
missing batches are asked for again; when they are not to be had, what is known is kept, the loss is remembered in the
confidence (:mod:`pointsman.kvcache.trust` has the rules), and the stream goes on. Indexing never stops.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from pointsman.kvcache.events import AllCleared, EventBatch
from pointsman.kvcache.stream_types import Action, Apply, DropState, RequestReplay, StreamOptions, StreamStats
from pointsman.kvcache.trust import Trust

WINDOW = 64
"""How far back a batch may come again or late before it can only be of a new process. One connection keeps order, so
anything but 0 or 1 is already strange."""
RECENT = 256
MAX_ATTEMPTS = 3


class EventStream:
    """Order of one engine's batches. Every method returns what is to be done, in that order."""

    def __init__(self, options: StreamOptions | None = None) -> None:
        self.options = options or StreamOptions()
        self.stats = StreamStats()
        self.last_lag = math.nan
        """Seconds from the engine's time stamp of the last live batch to its arrival."""
        self.lag = math.nan
        """The same, smoothed."""
        self.last_seen = -math.inf
        self._next: int | None = None  # None: nothing applied yet
        self._last_ts = -math.inf
        self._recent: OrderedDict[int, float] = OrderedDict()  # sequence number -> ts, of what was applied
        self._held: dict[int, EventBatch] = {}
        self._top = -1  # highest number held back
        self._unreadable = -1  # highest number whose payload could not be read
        self._asked: int | None = None  # replay under way: its start
        self._answers = self._asked_at = self._attempts = 0  # of that replay: batches, self._next then, repeats
        self._deadline = self._limit = math.inf
        self._pause_until = -math.inf
        self._latest = -1  # highest number that came live since the connection stands
        self._trust = Trust(self.options.silent_after)

    # -- what happens ---------------------------------------------------------------------------------------------

    def connected(self, now: float) -> list[Action]:
        """The subscription stands (again): ask for what was missed, also to see whether it is the same process."""
        self._trust.level, self._latest = False, -1
        return self._ask(self._overlap(), now) if self._asked is None else []

    def live(self, sequence: int, batch: EventBatch | None, now: float, wall: float) -> list[Action]:
        """A batch came; None when its payload could not be read."""
        self.last_seen = now
        self._trust.alive()
        if batch is None:
            self.stats.bad += 1
        else:
            self._measure_lag(batch, wall)
        return self._take(sequence, batch, now)

    def replayed(self, sequence: int, batch: EventBatch | None, now: float) -> list[Action]:
        """A batch came by replay."""
        if self._asked is None:
            return []  # of a replay given up
        self._deadline = now + self.options.replay_idle
        self._answers += 1
        if batch is None:
            return []
        self._trust.heard = True
        known = self._recent.get(sequence)
        if (known is not None and known != batch.ts) or self._contradicts(sequence, batch):
            return self._restart(sequence, batch, now, replaying=True)
        if known is not None or sequence in self._held or (self._next is not None and sequence < self._next):
            return []
        self.stats.replayed += 1
        if self._next is None and sequence < min(self._held, default=sequence + 1):
            self._skip_to(sequence)  # answers come in order: what the engine does not keep any more is lost
        self._hold(sequence, batch)
        return self._drain()

    def replay_ended(self, now: float) -> list[Action]:
        """The engine has sent all it keeps."""
        if self._asked is None:
            return []
        self._trust.heard = True
        if not self._answers and not self._held and self._next:
            # It does not even know the last batch we had, and it always keeps its newest: a new process.
            self._forget_process()
            return [DropState(), *self._ask(0, now)]
        return self._end_replay(now, failed=False)

    def tick(self, now: float) -> list[Action]:
        """Time passes: what was waited for too long is given up."""
        if now < min(self._deadline, self._limit):
            return []
        return self._end_replay(now, failed=True) if self._asked is not None else self._give_up()

    def expect(self, now: float) -> None:
        """The engine was handed work that should cause events."""
        self._trust.expect(now)

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether :meth:`tick` has something to do some time."""
        return min(self._deadline, self._limit) < math.inf

    @property
    def held(self) -> int:
        """Batches held back."""
        return len(self._held)

    @property
    def position(self) -> tuple[int, float]:
        """Number of the newest batch applied and the youngest time stamp so far; (-1, -inf) before the first."""
        return (self._next or 0) - 1, self._last_ts

    def confidence(self, now: float, coverage: float = 0.0, late: int = 0) -> float:
        """How far the state can be trusted, 0 to 1.

        Args:
            now: seconds.
            coverage: share of the engine's memory whose content is known, 0 to 1; 0 when not known.
            late: batches given out and not applied yet.
        """
        waiting = self._top + 1 - (self._next or 0) if self._held else 0
        return self._trust.confidence(now, waiting, coverage, late)

    def silent_for(self, now: float) -> float:
        """Seconds since the last live batch."""
        return now - self.last_seen

    # -- how ------------------------------------------------------------------------------------------------------

    def _take(self, sequence: int, batch: EventBatch | None, now: float) -> list[Action]:
        expected = self._next
        if batch is None:
            return self._take_unreadable(sequence, now)
        self._latest = max(self._latest, sequence)
        if expected is None or self._contradicts(sequence, batch):
            return self._first(sequence, batch, now)
        if sequence < expected:
            return self._from_the_past(sequence, batch, now)
        if sequence == expected and not self._held:
            return self._advance(sequence, batch)
        if sequence in self._held:
            self.stats.duplicates += 1
            return []
        self._hold(sequence, batch)
        actions = self._drain()
        if self._held and not self.waiting:
            actions += self._gap(now)
        return actions + self._relieve(now)

    def _take_unreadable(self, sequence: int, now: float) -> list[Action]:
        if self._next is None or sequence < self._next:
            return []
        self._unreadable = max(self._unreadable, sequence)
        return [] if self.waiting else self._gap(now)  # a replay may have it whole

    def _first(self, sequence: int, batch: EventBatch, now: float) -> list[Action]:
        if self._contradicts(sequence, batch):
            return self._restart(sequence, batch, now)
        self._trust.heard = True
        self._hold(sequence, batch)
        actions = self._drain()
        if self._held and not self.waiting:
            actions += self._ask(0, now)
            if not actions:  # what came first may be late all the same
                self._deadline = now + self.options.reorder
        return actions + self._relieve(now)

    def _from_the_past(self, sequence: int, batch: EventBatch, now: float) -> list[Action]:
        """A number lower than expected: the same again, too late, or of a new process."""
        assert self._next is not None
        near = self._next - sequence <= WINDOW
        if near and batch.ts <= self._last_ts and self._recent.get(sequence, batch.ts) == batch.ts:
            self.stats.duplicates += 1
            return []
        return self._restart(sequence, batch, now)

    def _contradicts(self, sequence: int, batch: EventBatch) -> bool:
        """Whether a batch is younger than one held back with its number or a higher one."""
        same = self._held.get(sequence)
        return sequence <= self._top and batch.ts > (same or self._held[self._top]).ts

    def _restart(self, sequence: int, batch: EventBatch, now: float, *, replaying: bool = False) -> list[Action]:
        self._forget_process()
        self._latest = -1 if replaying else sequence
        asked = self._ask(0, now) if replaying else []
        return [DropState(), *asked, *self._first(sequence, batch, now)]

    def _forget_process(self) -> None:
        self.stats.restarts += 1
        self._next, self._last_ts, self._top, self._unreadable = None, -math.inf, -1, -1
        self._held.clear()
        self._recent.clear()
        self._trust.empty()
        self._trust.level, self._latest, self._attempts = False, -1, 0
        self._pause_until = -math.inf
        self._stop_waiting()

    def _hold(self, sequence: int, batch: EventBatch) -> None:
        self._held[sequence] = batch
        self._top = max(self._top, sequence)

    def _relieve(self, now: float) -> list[Action]:
        """Stop waiting when too much is held back."""
        if len(self._held) <= (WINDOW if self._asked is None else self.options.hold):
            return []
        return self._fail(now) if self._asked is not None else self._give_up()

    def _advance(self, sequence: int, batch: EventBatch) -> list[Action]:
        self._next = sequence + 1
        self._last_ts = max(self._last_ts, batch.ts)
        self._recent[sequence] = batch.ts
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        self.stats.batches += 1
        if any(isinstance(event, AllCleared) for event in batch.events):
            self._trust.empty()
        self._trust.had()
        if 0 <= self._latest <= sequence:
            self._trust.level = True
        return [Apply(batch)]

    def _drain(self) -> list[Action]:
        """Apply what is held and next in line."""
        actions: list[Action] = []
        while self._held and (batch := self._held.pop(self._next or 0, None)) is not None:
            actions += self._advance(self._next or 0, batch)
        if not self._held:
            self._top = -1
            if self._asked is None:
                self._stop_waiting()
        return actions

    def _skip_to(self, sequence: int) -> None:
        """Count what lies before as lost."""
        lost = sequence - (self._next or 0)
        if lost > 0:
            self.stats.lost += lost
            self._trust.lost(lost, at_start=self._next is None)
        self._next = sequence

    def _gap(self, now: float) -> list[Action]:
        self.stats.gaps += 1
        self._attempts = 0
        asked = self._ask(self._overlap(), now)
        if not asked:
            self._deadline = now + self.options.reorder
        return asked

    def _overlap(self) -> int:
        """The last batch had, once more: a different one shows that the process is another."""
        return max(0, (self._next or 0) - 1)

    def _ask(self, start: int, now: float) -> list[Action]:
        if not self.options.can_replay or self._asked is not None or now < self._pause_until:
            return []
        self.stats.replays += 1
        self._asked, self._answers, self._asked_at = start, 0, self._next or 0
        self._deadline = now + self.options.replay_idle
        self._limit = now + self.options.replay_total
        return [RequestReplay(start)]

    def _end_replay(self, now: float, *, failed: bool) -> list[Action]:
        advanced = (self._next or 0) > self._asked_at
        incomplete = failed or bool(self._held)
        self._stop_waiting()
        # Engines before vLLM 0.33 drop part of a long replay to a slow reader: what came is no reason to stop asking.
        if incomplete and advanced and self._attempts < MAX_ATTEMPTS:
            self._attempts += 1
            return self._ask(self._overlap(), now)
        self._attempts = 0
        self._trust.level = self._trust.level or not failed
        return self._fail(now) if failed else self._give_up()

    def _fail(self, now: float) -> list[Action]:
        self.stats.failed_replays += 1
        self._pause_until = now + self.options.replay_pause
        return self._give_up()

    def _stop_waiting(self) -> None:
        self._asked = None
        self._deadline = self._limit = math.inf

    def _give_up(self) -> list[Action]:
        """Go on without what is still missing."""
        self._stop_waiting()
        actions: list[Action] = []
        while self._held:
            self._skip_to(min(self._held))
            actions += self._drain()
        if self._next is not None and self._next <= self._unreadable:
            self._skip_to(self._unreadable + 1)
        return actions

    def _measure_lag(self, batch: EventBatch, wall: float) -> None:
        self.last_lag = lag = max(0.0, wall - batch.ts)
        self.lag = lag if math.isnan(self.lag) else self.lag + 0.1 * (lag - self.lag)
