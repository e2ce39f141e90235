"""Figures of runs, and what they come to over seeds.

Policies get the same requests with the same seed, so ratios are taken seed by seed. A ratio over seeds is their
geometric mean, its spread the standard deviation of their logarithms. A gap is a tie when it is less than two standard
errors, 2 · spread / √seeds; of a single seed nothing is known, and gaps under 2 % are called ties (a seed moves most
cells below capacity by 1 to 2 %).

The best rival is that of the cell in hindsight, for each figure another one if need be: no router has that choice, and
with fifteen of them the best is a little too good by luck.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from pointsman.lab.compare import Comparison
from pointsman.lab.results import Row, RunResult

Metric = Literal["mean", "p50", "p95", "p99", "tpot", "output"]
ALONE = 0.02
"""Gaps of a single seed that mean nothing."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run. Milliseconds; ``output`` in tokens per second.

    Attributes:
        mean: time to first token, as ``p50``, ``p95`` and ``p99``; infinite when nothing was answered.
        tpot: mean time per output token.
        success: share of requests answered.
        share: hits as a share of an ideal shared cache's; None where there are none.
        output: tokens made while the measured requests arrived, of the whole fleet, over that time.
        busy: share of the time that pods were in a step.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    tpot: float
    success: float
    share: float | None
    output: float
    busy: float


Runs = Mapping[str, Sequence[Figures]]
"""By policy: one for each seed, in their order."""


def figures_of(run: Comparison) -> Figures:
    """What counts of a run."""
    result = run.result
    summary = result.summary()
    ttft, tpot = summary["ttft_ms"], summary["tpot_ms"]
    assert isinstance(ttft, dict)
    assert isinstance(tpot, dict)

    def of(found: float | None) -> float:
        return math.inf if found is None else found

    return Figures(
        mean=of(ttft["mean"]),
        p50=of(ttft["p50"]),
        p95=of(ttft["p95"]),
        p99=of(ttft["p99"]),
        tpot=of(tpot["mean"]),
        success=float(str(summary["success"])),
        share=run.share_of_achievable,
        output=output_in_time(result),
        busy=sum(result.busy_s) / len(result.busy_s) / result.duration if result.duration else 0.0,
    )


def output_in_time(result: RunResult) -> float:
    """Tokens per second made from the first to the last arrival that counts.

    All policies answer everything in the end, so tokens over the time until the last is there would tell how long the
    last straggler took. A request's tokens are spread evenly from its first to its end.
    """
    rows = result.measured()
    if not rows:
        return 0.0
    begin, end = rows[0].arrival, rows[-1].arrival
    return sum(_made(row, begin, end) for row in result.rows if row.ok) / (end - begin) if end > begin else 0.0


def _made(row: Row, begin: float, end: float) -> float:
    length = row.end - row.first_token
    if length <= 0:
        return row.output_tokens if begin <= row.end <= end else 0.0
    return row.output_tokens * max(0.0, min(end, row.end) - max(begin, row.first_token)) / length


class Ratio(msgspec.Struct, frozen=True):
    """One policy's figure over another's."""

    value: float
    spread: float | None
    """Standard deviation of the logarithms over seeds; None with one."""
    seeds: int

    @property
    def noise(self) -> float:
        """Largest logarithm of a ratio that is called a tie."""
        return ALONE if self.spread is None else 2 * self.spread / math.sqrt(self.seeds)

    def beyond(self, limit: float) -> bool:
        """Whether it is above ``limit`` and the seeds leave no doubt that it is above 1."""
        return self.value > limit and math.log(self.value) > self.noise

    @property
    def tie(self) -> bool:
        return abs(math.log(self.value)) <= self.noise


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures], metric: Metric) -> Ratio:
    """Of two policies on the same seeds."""
    logs = [_log(_value(one, metric), _value(two, metric)) for one, two in zip(ours, theirs, strict=True)]
    spread = statistics.stdev(logs) if len(logs) > 1 else None
    return Ratio(math.exp(statistics.fmean(logs)), spread, len(logs))


def _log(one: float, two: float) -> float:
    """Of a ratio; where nobody was answered or waited, nobody is better. Bounded, so that means can be taken."""
    if one == two:
        return 0.0
    if min(one, two) <= 0 or math.inf in {one, two}:
        return 12.0 if one > two else -12.0
    return math.log(one / two)


def _value(figures: Figures, metric: Metric) -> float:
    return float(getattr(figures, metric))


def typical(runs: Sequence[Figures], metric: Metric) -> float:
    """Geometric mean over seeds: at the edge of capacity a single seed can be ten times another."""
    values = [_value(one, metric) for one in runs]
    return statistics.geometric_mean(values) if min(values) > 0 and max(values) < math.inf else max(values)


def best_rival(runs: Runs, rivals: Sequence[str], metric: Metric) -> str:
    """Whose figure is best in the cell: least, but for output."""
    sign = -1 if metric == "output" else 1
    return min((name for name in rivals if name in runs), key=lambda name: sign * typical(runs[name], metric))


def geometric(values: Sequence[float]) -> float:
    """Geometric mean of ratios."""
    return statistics.geometric_mean(values)
