"""How a trace is replayed."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from pointsman.errors import ConfigError

Loop = Literal["auto", "open", "closed"]
STARTS_OVER = 900.0
"""Seconds over which sessions begin that the trace gives no start of."""
PHASE = 60.0
"""Seconds of the trace that copies of its users are shifted by, at most: enough to part their bursts."""


class ReplayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is replayed, and how.

    Attributes:
        speed: 2 halves the times between arrivals, and the thinking.
        slice: from and to, seconds of the trace from its first request (sessions: from the first start).
        scale_users: how many times the users of the trace; see :mod:`pointsman.lab.traces.replay`.
        seed: of token ids, jitter and shifts.
        limit: at most so many requests are read of the file.
        sort: read it all into memory and sort it.
        jitter: seconds of the trace over which a time stamp is spread; None: as the format says (Mooncake's batches).
        loop: ``closed``: a session's next request waits for the answer and the thinking; ``open``: all requests come at
            their recorded times; ``auto``: closed for formats of sessions.
        starts_over: seconds of the trace over which sessions begin that it gives no start of.
        max_input: longer prompts are cut to so many tokens.
        block: tokens in a block of Mooncake's format and its kin, where it is not the usual.
    """

    speed: float = 1.0
    slice: tuple[float, float] | None = None
    scale_users: int = 1
    seed: int = 0
    limit: int | None = None
    sort: bool = False
    jitter: float | None = None
    loop: Loop = "auto"
    starts_over: float = STARTS_OVER
    max_input: int | None = None
    block: int | None = None

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: naming the option.
        """
        if not 0 < self.speed < math.inf:
            raise ConfigError(f"must be above 0, got {self.speed}", field="--speed")
        if self.slice is not None and not 0 <= self.slice[0] < self.slice[1]:
            found = f"got {self.slice[0]:g} and {self.slice[1]:g}"
            raise ConfigError(f"from and to in seconds are wanted, from below to; {found}", field="--slice")
        for name, value in (("--jitter", self.jitter), ("--starts-over", self.starts_over)):
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"must be 0 or more, got {value}", field=name)
        for name, count in (
            ("--scale-users", self.scale_users),
            ("--limit", self.limit),
            ("--max-input", self.max_input),
            ("--block-size", self.block),
        ):
            if count is not None and count < 1:
                raise ConfigError(f"must be 1 or more, got {count}", field=name)
