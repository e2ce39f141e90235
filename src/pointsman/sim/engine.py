"""A continuous-batching engine under an outside clock: vLLM's scheduler in small, on a cost model.

The caller owns time: :meth:`Engine.begin` schedules a step and says how long it takes, :meth:`Engine.finish` applies
it. Per step the engine gives every decoding sequence one token and spends the rest of the token budget on prompts,
first come, first served, in chunks. Blocks are taken when a sequence is admitted (for its whole prompt, as with
vLLM's ``scheduler_reserve_full_isl``) and whenever it outgrows them; when they run out, the sequence admitted last is
preempted and later recomputed.

A caller that simulates long stretches of time need not see every step: :meth:`Engine.stretch` plans the steps that
bring nothing but one more token to everybody, :meth:`Engine.settle` applies those that have ended.
"""

from __future__ import annotations

from pointsman.errors import BadRequestError
from pointsman.sim import accounting
from pointsman.sim.decoding import DecodeSet
from pointsman.sim.emission import Emission, StepResult
from pointsman.sim.kv import BlockPool, CacheEvent, root_key
from pointsman.sim.limits import check_length
from pointsman.sim.line import WaitingLine
from pointsman.sim.lora import AdapterSlots
from pointsman.sim.profiles import EngineProfile
from pointsman.sim.residency import Residency
from pointsman.sim.sequence import Sequence, SimRequest, State
from pointsman.sim.stats import EngineStats
from pointsman.sim.stretch import Stretch


class Engine:
    """One simulated engine. All times are seconds of the caller's clock.

    Args:
        profile: cost model and limits.
        max_loras: adapters that fit on the device at once.
        events: collect KV-cache events for :meth:`drain_events`.

    Attributes:
        pace: factor on the length of every step that begins from now on; 2 is half as fast.
    """

    def __init__(self, profile: EngineProfile, *, max_loras: int = 0, events: bool = False) -> None:
        self.profile = profile
        self.pace = 1.0
        self.stats = EngineStats()
        self.pool = BlockPool(profile.num_blocks, profile.block_size, events=events, cpu_blocks=profile.cpu_blocks)
        self._residency = Residency(profile, self.pool)
        self.slots = AdapterSlots(max_loras)
        self._line = WaitingLine()
        self.decoding = DecodeSet(profile.block_size)
        self._sequences: dict[str, Sequence] = {}
        self._running: dict[Sequence, None] = {}  # in order of admission
        self._prefilling: dict[Sequence, None] = {}
        self._chunks: list[Sequence] = []
        self._quiet = False
        self.finished_at = 0.0
        self._stretch = Stretch(self)

    @property
    def running(self) -> int:
        """Requests admitted and not finished."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests not admitted yet, or preempted."""
        return len(self._line)

    def check(self, prompt_tokens: int, max_tokens: int) -> None:
        """Refuse what can never run.

        Raises:
            BadRequestError: if the request is empty, or longer than the model or the KV cache allows.
        """
        check_length(prompt_tokens, max_tokens, self.max_length)

    @property
    def max_length(self) -> int:
        """Longest prompt plus answer, tokens."""
        return min(self.profile.max_model_len, self.profile.num_blocks * self.profile.block_size)

    def submit(self, request: SimRequest, now: float) -> None:
        """Queue a request.

        Raises:
            BadRequestError: see :meth:`check`; also if the id is in use or no adapter fits on the device.
        """
        assert not self._stretch.ahead, "cut the stretch first"
        self.check(len(request.tokens), request.max_tokens)
        if request.id in self._sequences:
            raise BadRequestError(f"request id {request.id} is in use")
        if request.adapter is not None and not self.slots.capacity:
            raise BadRequestError("the engine has no adapter slots")
        root = root_key(self.profile.model, request.adapter, request.salt)
        sequence = Sequence(request, now, root, self.profile.block_size)
        self._sequences[request.id] = sequence
        self._line.push(sequence)

    def abort(self, request_id: str) -> bool:
        """Drop a request wherever it is. False if it is not here (any more)."""
        assert not self._stretch.ahead, "cut the stretch first"
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        if sequence.state is State.WAITING:
            self._line.remove(sequence)
        else:
            self._leave(sequence)
        sequence.state = State.GONE
        return True

    def begin(self, now: float) -> float | None:
        """Schedule the next step.

        Returns:
            Its length in seconds, or None when there is nothing to do.
        """
        preempted = self.grow()
        decoding = self.decoding
        self._chunks = []
        budget = self.profile.max_batched_tokens - len(decoding)
        cost = extra = 0.0
        for sequence in self._prefilling:
            if budget <= 0:
                break
            budget, cost = self._chunk(sequence, budget, cost)
        if len(self._line) and not preempted:
            cost, extra = self._admit(now, budget, cost)
        if not self._chunks and not decoding.members:
            self._report_gauges(now)
            return None
        self._quiet = not (self._chunks or self._prefilling or preempted)
        return self.pace * (extra + self.profile.step_ms(len(decoding), decoding.context, cost)) / 1e3

    def stretch(self, end: float) -> float:
        """Go on by itself after the step just begun, as long as nothing happens but one more token for everybody.

        Until the returned time (:meth:`finish`) or :meth:`cut`, nothing may be submitted or aborted.

        Args:
            end: when the begun step ends.

        Returns:
            When the last planned step ends; ``end`` if there are no more.
        """
        return self._stretch.plan(end, quiet=self._quiet)

    def settle(self, now: float) -> None:
        """Apply the steps of a stretch that have ended by now, but never its last: counts and events are as of now."""
        self._stretch.settle(now)

    def cut(self, now: float) -> float:
        """End a stretch with the step that is under way; when it ends."""
        return self._stretch.cut(now)

    def finish(self, now: float) -> StepResult:
        """Apply the step that was begun, or the whole stretch; it ends at ``now``."""
        self._stretch.settle_all()
        stats = self.stats
        produced = len(self.decoding)
        ending, reporting = self.decoding.advance()
        if produced:
            stats.inter_token_latency.observe(now - self.finished_at, produced)
        stats.iteration_tokens.observe(produced + sum(s.step_tokens for s in self._chunks))
        self.finished_at = now
        emissions = [Emission(s.request.id, s.sent, s.cached or 0) for s in reporting]
        emissions += [self._complete(sequence, now) for sequence in ending]
        for sequence in self._chunks:
            if sequence.state is State.PREFILL and sequence.computed == sequence.target:
                produced += 1
                self._start_decoding(sequence, now, emissions)
        self._chunks = []
        stats.generation_tokens += produced
        self._report_gauges(now)
        return StepResult(emissions, produced)

    def drain_events(self) -> list[CacheEvent]:
        """KV-cache events since the last call, but for those of a stretch."""
        return self.pool.drain_events()

    def drain_batches(self, now: float) -> list[tuple[float, list[CacheEvent]]]:
        """The same by step: when each step that brought some ended. Call after :meth:`settle` or :meth:`finish`.

        Args:
            now: when the step that :meth:`finish` applied ended; what the step under way brings is not told yet.
        """
        batches = self._stretch.drain()
        if not self._stretch.ahead and (events := self.pool.drain_events()):
            batches.append((now, events))
        return batches

    def grow(self) -> bool:
        """Give blocks to sequences that outgrow theirs. True: someone was preempted for it."""
        preempted = False
        for sequence in self.decoding.outgrowing():
            self._residency.register(sequence, sequence.blocks)
            while not self.pool.grow(sequence.hold):
                preempted = True
                victim = next(reversed(self._running))
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                sequence.blocks += 1
                self.decoding.grown(sequence)
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.state = State.WAITING
        sequence.target = sequence.prompt + sequence.outputs
        sequence.preemptions += 1
        self.stats.preemptions += 1
        self._line.push(sequence, front=True)

    def _leave(self, sequence: Sequence) -> None:
        """Give up everything a running sequence has."""
        if sequence.state is State.DECODE:
            self.decoding.leave(sequence)
            sequence.last_token = self.finished_at
        else:
            del self._prefilling[sequence]
        del self._running[sequence]
        self.pool.release(sequence.hold)
        sequence.blocks = sequence.registered = sequence.computed = 0
        if sequence.request.adapter is not None:
            self.slots.release(sequence.request.adapter)

    def _admit(self, now: float, budget: int, cost: float) -> tuple[float, float]:
        """Let waiting sequences in; the step's prefill cost and the time to load adapters and blocks, both ms."""
        line, slots = self._line, self.slots
        extra = 0.0
        if slots.freed:
            slots.freed = False
            line.recall()
        while budget > 0 and len(self._running) < self.profile.max_num_seqs and (sequence := line.head):
            adapter = sequence.request.adapter
            if adapter is not None and not slots.fits(adapter):
                line.defer()
                continue
            copying = self._residency.take(sequence)
            if copying is None:
                break
            extra += copying
            line.pop()
            if adapter is not None and slots.acquire(adapter):
                extra += self.profile.load_lora_ms
            sequence.state = State.PREFILL
            self._running[sequence] = self._prefilling[sequence] = None
            accounting.admitted(self.stats, sequence, sequence.computed, now)
            budget, cost = self._chunk(sequence, budget, cost)
        return cost, extra

    def _chunk(self, sequence: Sequence, budget: int, cost: float) -> tuple[int, float]:
        """Schedule as much of the prompt as the budget allows; what is left of it, and the step's cost so far."""
        tokens = min(sequence.target - sequence.computed, budget)
        cost += self.profile.chunk_ms(tokens, sequence.computed)
        sequence.computed += tokens
        sequence.step_tokens = tokens
        self._residency.register(sequence, sequence.computed // self.profile.block_size)
        self._chunks.append(sequence)
        return budget - tokens, cost

    def _start_decoding(self, sequence: Sequence, now: float, emissions: list[Emission]) -> None:
        """The prompt is computed: one token comes with it."""
        sequence.outputs = sequence.target - sequence.prompt + 1
        if sequence.first_token < 0:
            accounting.first_token(self.stats, sequence, now)
        else:
            self.stats.inter_token_latency.observe(now - sequence.last_token)
        if sequence.outputs >= sequence.request.max_tokens:
            emissions.append(self._complete(sequence, now))
            return
        interval = sequence.request.interval
        if interval and (not sequence.sent or sequence.outputs - sequence.sent >= interval):
            sequence.sent = sequence.outputs
            emissions.append(Emission(sequence.request.id, sequence.sent, sequence.cached or 0))
        del self._prefilling[sequence]
        sequence.state = State.DECODE
        self.decoding.join(sequence)

    def _complete(self, sequence: Sequence, now: float) -> Emission:
        # The last token was sampled, but its KV entry never computed.
        full = (sequence.prompt + sequence.request.max_tokens - 1) // self.profile.block_size
        self._residency.register(sequence, full)
        self._leave(sequence)
        sequence.outputs = sequence.request.max_tokens
        sequence.state = State.GONE
        del self._sequences[sequence.request.id]
        accounting.finished(self.stats, sequence, "length", now)
        return Emission(sequence.request.id, sequence.outputs, sequence.cached or 0, "length")

    def _report_gauges(self, now: float) -> None:
        stats = self.stats
        stats.running = len(self._running)
        stats.waiting = len(self._line)
        stats.deferred = self._line.deferred
        stats.kv_usage = self.pool.used / self.pool.total
        if self.slots.capacity:
            stats.adapters_seen[self.slots.running(), self._line.adapters()] = now
