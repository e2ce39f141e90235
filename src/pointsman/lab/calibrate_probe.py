"""A short load that shows an engine's costs one by one: prompts alone, answers side by side, a prompt among answers."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable, Sequence

import msgspec

from pointsman.lab.calibrate_client import ProbeClient, Reply
from pointsman.lab.calibrate_fit import CalibrationError, DecodeSample, InterferenceSample, PrefillSample

_LEAST_GAPS = 6
"""Steps that an answer must have taken beside all others, to count."""


class ProbeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent.

    Attributes:
        lengths: of prompts alone, tokens; those that do not fit the model are left out.
        repeats: of each.
        concurrencies: answers at once.
        contexts: prompt tokens of those.
        outputs: tokens of those.
        intruder: tokens of the prompt that is sent while answers stream.
    """

    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    repeats: int = 3
    concurrencies: tuple[int, ...] = (1, 4, 16)
    contexts: tuple[int, ...] = (128, 2048)
    outputs: int = 96
    intruder: int = 1500


class Samples(msgspec.Struct):
    """What was measured."""

    prefill: list[PrefillSample] = []
    decode: list[DecodeSample] = []
    interference: list[InterferenceSample] = []


async def probe(
    client: ProbeClient, options: ProbeOptions, progress: Callable[[str], None] = lambda _: None
) -> Samples:
    """Measure one engine that nobody else uses.

    Raises:
        CalibrationError: if it cannot be reached, refuses or does not stream.
    """
    longest = (client.max_length or 1 << 30) - options.outputs - 64
    lengths = sorted({length for length in options.lengths if length <= longest})
    if len(lengths) < 3:
        raise CalibrationError(f"the model takes {client.max_length} tokens: give three --lengths below that")
    progress("warm-up")
    await client.ask(client.prompt(lengths[0]), 4)  # the first request may compile
    samples = Samples()
    for length in lengths:
        progress(f"prompts of {length} tokens")
        for _ in range(options.repeats):
            await _prefill(client, length, longest, samples)
    for context, count in itertools.product(options.contexts, options.concurrencies):
        if context <= longest:
            progress(f"{count} answers behind {context} tokens")
            samples.decode += await _decode(client, count, context, options.outputs)
    for _ in range(options.repeats):
        progress("a prompt among answers")
        samples.interference += await _interfere(client, min(options.intruder, longest // 2), options.outputs)
    return samples


async def _prefill(client: ProbeClient, length: int, longest: int, samples: Samples) -> None:
    """A new prompt, and the same again with more behind it."""
    prompt = client.prompt(length)
    samples.prefill.append(PrefillSample(length, 0, _first_ms(client, await client.ask(prompt, 1))))
    more = prompt + client.prompt(max(256, length // 4))
    if len(more) <= longest:
        reply = await client.ask(more, 1)
        if reply.cached:
            fresh = reply.prompt_tokens - reply.cached
            samples.prefill.append(PrefillSample(fresh, reply.cached, _first_ms(client, reply)))


async def _decode(client: ProbeClient, count: int, context: int, outputs: int) -> list[DecodeSample]:
    """Answers at once, looked at while all of them decode."""
    replies = await asyncio.gather(*(client.ask(client.prompt(context), outputs) for _ in range(count)))
    gap = _step(replies, max(one.times[0] for one in replies), min(one.times[-1] for one in replies))
    if gap is None:
        return []  # some had to wait for a seat
    return [DecodeSample(count, count * (context + outputs / 2), gap)]


async def _interfere(client: ProbeClient, tokens: int, outputs: int, count: int = 2) -> list[InterferenceSample]:
    """A prompt arrives while others decode: their longest gap, less a usual one."""
    others = [asyncio.create_task(client.ask(client.prompt(128), outputs)) for _ in range(count)]
    alone = asyncio.create_task(client.ask(client.prompt(64), max(2, outputs // 3)))
    await asyncio.wait([alone])  # by now the others are in the middle of their answers
    intruder = await client.ask(client.prompt(tokens), 1)
    replies = await asyncio.gather(*others)
    await alone
    found = []
    for one in replies:
        gaps = [later - now for now, later in itertools.pairwise(one.times) if now <= intruder.times[0]]
        during = [
            later - now
            for now, later in itertools.pairwise(one.times)
            if later >= intruder.sent and now <= intruder.times[0]
        ]
        if during and one.times[-1] > intruder.times[0] and len(gaps) >= _LEAST_GAPS:
            found.append(max(during) - statistics.median(gaps))
    if not found:
        return []
    return [InterferenceSample(tokens, max(0.0, statistics.median(found)) * 1e3)]


def _first_ms(client: ProbeClient, reply: Reply) -> float:
    return max(0.0, reply.times[0] - reply.sent - client.round_trip) * 1e3


def _step(replies: Sequence[Reply], began: float, ended: float) -> float | None:
    """Mean milliseconds per token between two times; None when there was too little between them."""
    found = []
    for one in replies:
        times = [time for time in one.times if began <= time <= ended]
        if len(times) <= _LEAST_GAPS or len(one.times) < 2:
            return None
        tokens_a_chunk = (one.outputs - 1) / (len(one.times) - 1)
        found.append((times[-1] - times[0]) / (len(times) - 1) / tokens_a_chunk)
    return statistics.median(found) * 1e3
