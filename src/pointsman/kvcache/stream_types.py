"""What goes into and comes out of :class:`pointsman.kvcache.stream.EventStream`."""

from __future__ import annotations

import msgspec

from pointsman.kvcache.events import EventBatch


class Apply(msgspec.Struct, frozen=True, gc=False):
    """Follow this batch."""

    batch: EventBatch


class DropState(msgspec.Struct, frozen=True, gc=False):
    """The engine was restarted: it holds nothing of what it held."""


class RequestReplay(msgspec.Struct, frozen=True, gc=False):
    """Ask the engine for its batches from ``start`` on."""

    start: int


Action = Apply | DropState | RequestReplay


class StreamOptions(msgspec.Struct, frozen=True):
    """Patience, in seconds."""

    can_replay: bool = False
    replay_idle: float = 2.0
    """Without an answer for that long, a replay has failed."""
    replay_total: float = 15.0
    replay_pause: float = 5.0
    """After a failed replay gaps are taken as losses for that long, so that a dead socket does not delay every gap."""
    reorder: float = 0.05
    """How long a late batch is waited for when nothing can be asked again."""
    hold: int = 20_000
    """Batches held back at most."""
    silent_after: float = 10.0
    """Silence after a request that should have caused events, before the stream is distrusted; an idle engine may be
    silent for ever."""


class StreamStats(msgspec.Struct):
    """Counts since the stream was first seen."""

    batches: int = 0
    """Applied."""
    gaps: int = 0
    lost: int = 0
    """Batches never had."""
    replays: int = 0
    """Asked for."""
    replayed: int = 0
    """Batches that came by replay and were of use."""
    failed_replays: int = 0
    restarts: int = 0
    duplicates: int = 0
    bad: int = 0
    """Payloads that could not be read."""
