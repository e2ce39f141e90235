"""Workloads whose requests do not wait for each other: bursts of one prompt, long prompts, tenants, bursty arrivals."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pointsman.lab.requests import LabRequest
from pointsman.lab.workloads.arrivals import Stage, gamma, ladder
from pointsman.lab.workloads.tokens import Texts, lognormal

SECONDS = 180.0
"""Length of each workload, times its scale."""


class OpenLoop:
    """What these have in common.

    Args:
        qps: requests per second; None for the workload's own.
        seed: of everything.
        scale: factor on the length.
    """

    name = ""
    own_qps = 10.0

    def __init__(self, *, qps: float | None = None, seed: int = 0, scale: float = 1.0) -> None:
        self.qps = qps or self.own_qps
        self.seconds = SECONDS * scale
        self.seed = seed
        self.texts = Texts(seed)

    def requests(self) -> Iterator[LabRequest]:
        """All, sorted by arrival."""
        raise NotImplementedError

    def follow(self, done: LabRequest, now: float) -> None:
        """Nothing: the loop is open."""

    def rng(self, what: str) -> Random:
        """Of the workload, its seed and a purpose."""
        return Random(f"{self.name}/{self.seed}/{what}")

    def poisson(self, share: float = 1.0) -> Iterator[float]:
        """Arrivals at that share of the rate."""
        return (at for at, _ in ladder([Stage(self.qps * share, self.seconds)], self.rng("times")))


class BestOfN(OpenLoop):
    """Bursts: each prompt is asked ``n`` times at the same moment, as samplers and evaluations do.

    Nothing of the prompt is in any cache when the burst comes, so only its own first answer can help the others.
    """

    name = "best-of-n"
    n = 8

    def requests(self) -> Iterator[LabRequest]:
        rng = self.rng("lengths")
        for burst, at in enumerate(self.poisson(1 / self.n)):
            tokens = self.texts.own(f"{burst}", lognormal(rng, 2500, 10_000, 200, 24_000))
            for sample in range(self.n):
                yield LabRequest(
                    id=f"{burst}-{sample}",
                    arrival=at,
                    tokens=tokens,
                    max_tokens=lognormal(rng, 300, 900, 16, 2000),
                )


class LongMix(OpenLoop):
    """Short questions, and among each twenty a document of tens of thousands of tokens that holds up who is behind."""

    name = "long-mix"
    long_share = 0.05

    def requests(self) -> Iterator[LabRequest]:
        rng = self.rng("lengths")
        for number, at in enumerate(self.poisson()):
            long = rng.random() < self.long_share
            length = rng.randint(16_000, 36_000) if long else lognormal(rng, 400, 2000, 20, 4000)
            yield LabRequest(
                id=f"r{number}",
                arrival=at,
                tokens=self.texts.own(f"{number}", length),
                max_tokens=lognormal(rng, 200, 600, 10, 1500),
            )


class LoraTenants(OpenLoop):
    """Tenants with an adapter and a system prompt each, a few of them busy: Zipf with exponent 1."""

    name = "lora"
    tenants = 16

    def requests(self) -> Iterator[LabRequest]:
        rng = self.rng("lengths")
        weights = [1 / (rank + 1) for rank in range(self.tenants)]
        for number, at in enumerate(self.poisson()):
            tenant = rng.choices(range(self.tenants), weights)[0]
            system = self.texts.shared(f"tenant {tenant}", 1500)
            yield LabRequest(
                id=f"r{number}",
                arrival=at,
                tokens=system + self.texts.own(f"{number}", lognormal(rng, 300, 1500, 20, 4000)),
                max_tokens=lognormal(rng, 200, 600, 10, 1500),
                adapter=f"tenant-{tenant}",
            )


class Bursty(OpenLoop):
    """Prompts of fifty applications, arriving in bursts: gamma with a coefficient of variation of 4.

    Between Azure's traces, 1.1 in conversation and 13 in code completion.
    """

    name = "bursty"
    cv = 4.0
    groups = 50

    def requests(self) -> Iterator[LabRequest]:
        rng = self.rng("lengths")
        for number, at in enumerate(gamma(self.qps, self.cv, self.seconds, self.rng("times"))):
            system = self.texts.shared(f"group {rng.randrange(self.groups)}", 2000)
            yield LabRequest(
                id=f"r{number}",
                arrival=at,
                tokens=system + self.texts.own(f"{number}", lognormal(rng, 400, 2000, 20, 6000)),
                max_tokens=lognormal(rng, 250, 800, 10, 2000),
            )
