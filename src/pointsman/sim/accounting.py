"""What an engine writes into its statistics, and when. Times are engine seconds."""

from __future__ import annotations

from pointsman.sim.sequence import Sequence
from pointsman.sim.stats import EngineStats


def admitted(stats: EngineStats, sequence: Sequence, hits: int, now: float) -> None:
    """A sequence left the waiting line with ``hits`` of its tokens cached."""
    if sequence.cached is not None:
        return  # back after a preemption: what it finds are its own blocks, and its wait was counted
    sequence.cached = hits
    sequence.scheduled = now
    stats.prefix_queries += sequence.prompt
    stats.prefix_hits += hits
    stats.queue_time.observe(now - sequence.arrival)


def first_token(stats: EngineStats, sequence: Sequence, now: float) -> None:
    """A sequence has its first token ever."""
    sequence.first_token = now
    cached = sequence.cached or 0
    stats.prompt_tokens += sequence.prompt
    stats.cached_tokens += cached
    stats.time_to_first_token.observe(now - sequence.arrival)
    stats.prefill_time.observe(now - sequence.scheduled)
    stats.prefill_computed_tokens.observe(sequence.prompt - cached)


def finished(stats: EngineStats, sequence: Sequence, reason: str, now: float) -> None:
    """A sequence has all its ``outputs``."""
    outputs = sequence.outputs
    decode = now - sequence.first_token
    stats.finished[reason] += 1
    stats.request_prompt_tokens.observe(sequence.prompt)
    stats.request_generation_tokens.observe(outputs)
    stats.request_params_n.observe(1)
    stats.request_params_max_tokens.observe(sequence.request.max_tokens)
    stats.request_max_num_generation_tokens.observe(outputs)
    stats.e2e_latency.observe(now - sequence.arrival)
    stats.inference_time.observe(now - sequence.scheduled)
    stats.decode_time.observe(decode)
    stats.request_preemptions.observe(sequence.preemptions)
    if outputs > 1:
        stats.time_per_output_token.observe(decode / (outputs - 1))
