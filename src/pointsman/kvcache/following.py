"""One engine followed: its stream in order, its view kept, and what came of it counted. No sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from pointsman.kvcache.backlog import Backlog
from pointsman.kvcache.events import BadEventsError, EventBatch, decode_batch
from pointsman.kvcache.stream import EventStream
from pointsman.kvcache.stream_types import Action, Apply, DropState, StreamOptions

END_OF_REPLAY = b"\xff" * 8
MAX_PAYLOAD = 64 * 1024 * 1024


class View(Protocol):
    """What batches are applied to: :class:`pointsman.kvcache.pod_view.PodView`."""

    @property
    def coverage(self) -> float: ...

    def apply(self, batch: EventBatch) -> None: ...

    def forget(self) -> None: ...


class StreamStatus(msgspec.Struct, frozen=True):
    """How one engine's stream is, for scorers and metrics. Times in seconds."""

    pod: str
    rank: int
    connected: bool
    confidence: float
    """0 to 1; 0 when the connection is down."""
    lag: float
    """From the engine's time stamp to arrival, smoothed; NaN before the first batch."""
    last_lag: float
    silent_for: float
    held: int
    batches: int
    events: int
    gaps: int
    lost: int
    replays: int
    failed_replays: int
    restarts: int
    duplicates: int
    bad: int
    skipped: dict[str, int]


class Following:
    """A stream and its view.

    Args:
        pod: whose.
        rank: data-parallel rank.
        view: follows the batches.
        options: patience of the stream.
        ask: called with the start of a replay that is wanted.
        later: told of a backlog that somebody must work through; without it every batch is applied at once.
    """

    def __init__(
        self,
        pod: str,
        rank: int,
        view: View,
        options: StreamOptions,
        ask: Callable[[int], None],
        later: Callable[[Backlog], None] | None = None,
    ) -> None:
        self.pod, self.rank, self.view = pod, rank, view
        self.stream = EventStream(options)
        self.events = 0
        self.skipped: Counter[str] = Counter()
        self.connected = False
        self.backlog = Backlog(view.apply)
        self._ask, self._later = ask, later

    def message(self, sequence: int, batch: EventBatch | None, now: float, wall: float) -> None:
        """A live batch came, None when it could not be read."""
        self.act(self.stream.live(sequence, batch, now, wall))

    def reply(self, frames: list[bytes], now: float) -> bool:
        """A frame of a replay came; whether it was the last."""
        if len(frames) in {3, 4} and frames[-2] == END_OF_REPLAY:  # old engines send no topic
            self.act(self.stream.replay_ended(now))
            return True
        if len(frames) in {3, 4} and len(frames[-2]) == 8:
            self.act(self.stream.replayed(int.from_bytes(frames[-2], "big"), read(frames[-1]), now))
        return False

    def online(self, now: float) -> None:
        """The connection stands (again)."""
        self.connected = True
        self.act(self.stream.connected(now))

    def act(self, actions: list[Action]) -> None:
        """Carry out what the stream decided."""
        for action in actions:
            if isinstance(action, Apply):
                self.events += len(action.batch.events)
                if action.batch.skipped:
                    self.skipped.update(action.batch.skipped)
                self.backlog.put(action.batch)
            elif isinstance(action, DropState):
                self.forget()
            else:
                self._ask(action.start)
        if self._later is not None and self.backlog.heavy:
            self._later(self.backlog)
        else:
            while self.backlog.step():
                pass

    def forget(self) -> None:
        """Nothing is known of the engine."""
        self.backlog.clear()
        self.view.forget()

    def confidence(self, now: float) -> float:
        """How far the view can be trusted, 0 to 1; 0 when the connection is down."""
        return self.stream.confidence(now, self.view.coverage, len(self.backlog)) if self.connected else 0.0

    def status(self, now: float) -> StreamStatus:
        """As of ``now``."""
        stream, stats = self.stream, self.stream.stats
        return StreamStatus(
            pod=self.pod,
            rank=self.rank,
            connected=self.connected,
            confidence=self.confidence(now),
            lag=stream.lag,
            last_lag=stream.last_lag,
            silent_for=stream.silent_for(now),
            held=stream.held,
            batches=stats.batches,
            events=self.events,
            gaps=stats.gaps,
            lost=stats.lost,
            replays=stats.replays,
            failed_replays=stats.failed_replays,
            restarts=stats.restarts,
            duplicates=stats.duplicates,
            bad=stats.bad,
            skipped=dict(self.skipped),
        )


def read(payload: bytes) -> EventBatch | None:
    """A payload as a batch, None when it is none."""
    if len(payload) > MAX_PAYLOAD:
        return None
    try:
        return decode_batch(payload)
    except BadEventsError:
        return None
