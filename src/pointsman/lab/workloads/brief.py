"""Groups of questions behind long shared beginnings: the workload of the published comparison."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pointsman.lab.requests import LabRequest
from pointsman.lab.workloads.arrivals import Stage, ladder
from pointsman.lab.workloads.tokens import Texts

LADDER = (3, 10, 15, 20, 22, 25, 30, 35, 40, 43, 46, 49, 52, 55, 57, 60)
STAGE_SECONDS = 30.0
WARM_UP_QPS = 15.0


class Brief:
    """``groups`` system prompts, ``variants`` questions to each, asked in shuffled rounds; Poisson, open loop.

    Numbers are those of llm-d's benchmark (guides/optimized-baseline): 150 x 5, 6,000 + 1,200 tokens, 1,000 out;
    without ``qps`` its ladder, 50 s of warm-up at 15 QPS and 16 rates from 3 to 60 QPS, here 30 s each. With ``qps``:
    60 s of warm-up at that rate, 15 at most, then 150 s.

    Args:
        qps: requests per second.
        seed: of everything.
        scale: factor on the length of each stage but the warm-up.
        groups: different system prompts.
        variants: questions to each.
        system: tokens of system prompts; several lengths are dealt out to the groups in turn.
        question: tokens.
        output: tokens.
    """

    def __init__(
        self,
        *,
        qps: float | None = None,
        seed: int = 0,
        scale: float = 1.0,
        groups: int = 150,
        variants: int = 5,
        system: tuple[int, ...] = (6000,),
        question: int = 1200,
        output: int = 1000,
    ) -> None:
        self.name = "brief"
        if qps is None:
            self.stages = [Stage(WARM_UP_QPS, 50.0, warm_up=True)]
            self.stages += [Stage(rate, STAGE_SECONDS * scale) for rate in LADDER]
        else:
            self.stages = [Stage(min(qps, WARM_UP_QPS), 60.0, warm_up=True), Stage(qps, 150.0 * scale)]
        self._seed, self._groups, self._variants = seed, groups, variants
        self._system, self._question, self._output = system, question, output

    def requests(self) -> Iterator[LabRequest]:
        """All, sorted by arrival."""
        texts = Texts(self._seed)
        pairs = _rounds(self._groups, self._variants, Random(f"brief/{self._seed}/order"))
        times = ladder(self.stages, Random(f"brief/{self._seed}/times"))
        for number, ((at, stage), (group, variant)) in enumerate(zip(times, pairs, strict=False)):
            system = texts.shared(f"group {group}", self._system[group % len(self._system)])
            yield LabRequest(
                id=f"r{number}",
                arrival=at,
                tokens=system + texts.own(f"question {group} {variant}", self._question),
                max_tokens=self._output,
                warm_up=stage.warm_up,
            )

    def follow(self, done: LabRequest, now: float) -> None:
        """Nothing: the loop is open."""


def _rounds(groups: int, variants: int, rng: Random) -> Iterator[tuple[int, int]]:
    """Every question once a round, each round in another order."""
    pairs = [(group, variant) for group in range(groups) for variant in range(variants)]
    while True:
        rng.shuffle(pairs)
        yield from pairs
