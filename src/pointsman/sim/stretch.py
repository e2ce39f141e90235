"""Many decode steps of a simulated engine in one go, each as it would have been by itself.

While nothing is submitted and nobody ends, every step gives one token to the same sequences: its length follows from
the one before. Only the blocks that sequences outgrow are seen to step by step. A trace of an hour on eight engines
has a million steps, and some fifty thousand stretches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.sim.kv import CacheEvent

if TYPE_CHECKING:
    from pointsman.sim.engine import Engine


class Stretch:
    """Steps planned beyond the one an engine has begun.

    Attributes:
        ahead: how many there are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ahead = 0
        self._end = 0.0  # of the step under way
        self._batches: list[tuple[float, list[CacheEvent]]] = []

    def plan(self, end: float, *, quiet: bool) -> float:
        """Plan what can be; when the last step ends.

        Args:
            end: of the step under way.
            quiet: that step is decodes alone, and nobody can be admitted before somebody leaves.
        """
        self.ahead, self._end = 0, end
        if not quiet:
            return end
        engine = self._engine
        decoding, profile = engine.decoding, engine.profile
        members = len(decoding)
        # Nobody may be preempted: in each run of ``block_size`` steps every sequence grows once.
        room = (engine.pool.available // members - 1) * profile.block_size
        steps = min(decoding.quiet_steps() - 1, room)
        if steps < 1:
            return end
        # Steps get longer by the same amount each; the floor would have to bind for the first to spoil the sum.
        first = profile.step_ms(members, decoding.context + members, 0.0)
        slope = profile.decode_per_context_token * members
        if first <= profile.step_floor or slope < 0:
            return end
        self.ahead = steps
        return end + engine.pace * (steps * first + slope * steps * (steps - 1) / 2) / 1e3

    def settle(self, now: float) -> None:
        """Apply the steps that have ended, but for the last planned."""
        if self.ahead and self._end <= now:
            self._pass(now)

    def settle_all(self) -> None:
        """Apply all but the last planned step, which becomes the one under way."""
        if self.ahead:
            self._pass(float("inf"))

    def cut(self, now: float) -> float:
        """Plan no more than the step under way; when it ends."""
        self.settle(now)
        self.ahead = 0
        return self._end

    def drain(self) -> list[tuple[float, list[CacheEvent]]]:
        """KV-cache events of steps that were settled, with the time each step ended."""
        batches, self._batches = self._batches, []
        return batches

    def _pass(self, now: float) -> None:
        engine = self._engine
        decoding, profile, pool = engine.decoding, engine.profile, engine.pool
        members, pace = len(decoding), engine.pace / 1e3
        base = profile.decode_base + profile.decode_per_request * members
        per_token = profile.decode_per_context_token
        began, passed, lengths = engine.finished_at, 0, [self._end - engine.finished_at]
        used = pool.used
        while self.ahead and self._end <= now:
            if events := pool.drain_events():
                self._batches.append((self._end, events))
            decoding.pass_quietly()
            passed += 1
            used = pool.used
            engine.grow()
            engine.finished_at = self._end
            self.ahead -= 1
            length = pace * (base + per_token * decoding.context)
            lengths.append(length)
            self._end += length
        lengths.pop()  # of the step under way
        stats = engine.stats
        total = members * (engine.finished_at - began)
        if not stats.inter_token_latency.observe_between(min(lengths), max(lengths), total, members * passed):
            for length in lengths:
                stats.inter_token_latency.observe(length, members)
        stats.iteration_tokens.observe(members, passed)
        stats.generation_tokens += members * passed
        stats.kv_usage = used / pool.total
