"""Workloads: prompts and arrival times, from a seed."""

from __future__ import annotations

import random

import msgspec

from pointsman.sim.tokens import BYTES_PER_TOKEN

_WORDS = """
    signal track junction wagon engine timetable platform freight express local switch yard siding depot brake
    coupling boiler carriage conductor passenger ticket station bridge tunnel gauge sleeper ballast rail wheel axle
    the a of and to in for with on at by from as is are was will may must can when where which that this each
    customer order invoice refund policy shipment return account balance answer question contract clause section
    always never please briefly exactly clearly polite short long first second last next before after during
""".split()  # noqa: SIM905 - a list would be a hundred lines


class Prompt(msgspec.Struct, frozen=True):
    """One prompt of a workload: a system text its group shares, and a user text of its own."""

    group: int
    variant: int
    system: str
    user: str
    output_tokens: int


def text(tokens: int, rng: random.Random) -> str:
    """Plausible words, exactly ``tokens`` tokens of the toy tokenizer long."""
    length = tokens * BYTES_PER_TOKEN
    parts: list[str] = []
    size = 0
    while size < length:
        words = " ".join(rng.choices(_WORDS, k=min(12, length)))
        sentence = f"{words.capitalize()}. "
        parts.append(sentence)
        size += len(sentence)
    return "".join(parts)[:length]


def brief_workload(
    *,
    groups: int = 150,
    variants: int = 5,
    system_tokens: int = 6000,
    question_tokens: int = 200,
    output_tokens: int = 500,
    seed: int = 0,
) -> list[Prompt]:
    """The workload of the published comparison: groups that share a long system prompt, several questions each.

    Prompts come ordered by group and variant; the text of a group depends on the seed and its number alone.
    """
    prompts = []
    for group in range(groups):
        rng = random.Random(f"{seed}/{group}")
        system = text(system_tokens, rng)
        questions = (text(question_tokens, rng) for _ in range(variants))
        prompts += [Prompt(group, i, system, question, output_tokens) for i, question in enumerate(questions)]
    return prompts


def poisson_arrivals(rate: float, count: int, rng: random.Random) -> list[float]:
    """``count`` arrival times in seconds from 0, with exponential gaps of ``1/rate`` on average.

    Raises:
        ValueError: if the rate is not above 0.
    """
    if rate <= 0:
        raise ValueError(f"the rate must be above 0, got {rate}")
    now = 0.0
    arrivals = []
    for _ in range(count):
        now += rng.expovariate(rate)
        arrivals.append(now)
    return arrivals


def chat_body(prompt: Prompt, model: str, *, stream: bool = True) -> bytes:
    """The JSON body of ``POST /v1/chat/completions`` for a prompt; a stream ends with its usage."""
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
        "max_tokens": prompt.output_tokens,
        "ignore_eos": True,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(body)
