"""The sequences that decode, without touching each of them in each step.

All of them get one token a step, so a sequence's output count follows from the step number. What will happen to it (it
outgrows its blocks, it is to be reported, it ends) is written into calendars by step number when it joins. A sequence
that leaves keeps its old entries; they no longer agree with the tick the sequence itself names, and are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.sim.sequence import Sequence

_Calendar = dict[int, list[Sequence]]


class DecodeSet:
    """Decoding sequences and what is planned for them. ``block_size`` is in tokens."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.members: dict[Sequence, None] = {}
        self.context = 0
        """Context tokens of all members: what the next step reads from the KV cache."""
        self.tick = 0
        """Steps finished."""
        self._grow: _Calendar = {}
        self._report: _Calendar = {}
        self._finish: _Calendar = {}

    def __len__(self) -> int:
        return len(self.members)

    def join(self, sequence: Sequence) -> None:
        """The sequence has its prompt computed and ``outputs`` tokens; it gets the next one in the next step."""
        self.members[sequence] = None
        self.context += sequence.prompt + sequence.outputs
        sequence.base = self.tick - sequence.outputs
        sequence.finish_tick = sequence.base + sequence.request.max_tokens
        self._finish.setdefault(sequence.finish_tick, []).append(sequence)
        # Outputs k to k+1: the step computes the KV entry of output k, token number prompt + k.
        first_beyond = sequence.blocks * self.block_size + 1
        self._plan_growth(sequence, sequence.base + first_beyond - sequence.prompt + 1)
        self._plan_report(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Finished, preempted or aborted: its ``outputs`` are as of the last finished step."""
        del self.members[sequence]
        sequence.outputs = self.tick - sequence.base
        self.context -= sequence.prompt + sequence.outputs
        sequence.finish_tick = sequence.grow_tick = sequence.report_tick = -1

    def outgrowing(self) -> Iterator[Sequence]:
        """Members that need one more block in the next step; each is told once, and not when it has left meanwhile."""
        tick = self.tick + 1
        for sequence in self._grow.pop(tick, ()):
            if sequence.grow_tick == tick:
                yield sequence

    def grown(self, sequence: Sequence) -> None:
        """The sequence got its block."""
        self._plan_growth(sequence, sequence.grow_tick + self.block_size)

    def advance(self) -> tuple[list[Sequence], list[Sequence]]:
        """One step is over: every member has one more token. Those that end, and those to report."""
        self.tick += 1
        self.context += len(self.members)
        tick = self.tick
        ending = [s for s in self._finish.pop(tick, ()) if s.finish_tick == tick]
        reporting = [s for s in self._report.pop(tick, ()) if s.report_tick == tick]
        for sequence in reporting:
            sequence.sent = tick - sequence.base
            self._plan_report(sequence)
        return ending, reporting

    def quiet_steps(self) -> int:
        """Steps until one ends a sequence or is to be reported, that one included."""
        return min(*self._finish, min(self._report, default=1 << 60)) - self.tick

    def pass_quietly(self) -> None:
        """One step is over that neither ends nor reports anything."""
        self.tick += 1
        self.context += len(self.members)

    def _plan_growth(self, sequence: Sequence, tick: int) -> None:
        sequence.grow_tick = tick
        if tick <= sequence.finish_tick:
            self._grow.setdefault(tick, []).append(sequence)

    def _plan_report(self, sequence: Sequence) -> None:
        interval = sequence.request.interval
        tick = sequence.base + sequence.sent + interval
        if interval and tick < sequence.finish_tick:
            sequence.report_tick = tick
            self._report.setdefault(tick, []).append(sequence)
        else:
            sequence.report_tick = -1
