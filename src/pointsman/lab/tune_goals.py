"""What a policy is tuned for: figures of a run, and how sure a difference between two runs is."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType

import msgspec

from pointsman.errors import ConfigError
from pointsman.lab.results import Row, percentile

Measure = Callable[[Sequence[Row], float], float]
"""Rows and the seconds over which they were answered to a figure; NaN when there is none."""


class Goal(msgspec.Struct, frozen=True):
    """A figure to improve."""

    name: str
    unit: str
    measure: Measure
    more_is_better: bool = False

    def better(self, one: float, other: float) -> bool:
        """Whether the first figure is better than the second; none is worse than any."""
        if math.isnan(one) or math.isnan(other):
            return math.isnan(other) and not math.isnan(one)
        return one > other if self.more_is_better else one < other


def _ttft(share: float | None) -> Measure:
    """Milliseconds; a request that failed counts as one that never had a first token, so it moves percentiles."""

    def measure(rows: Sequence[Row], seconds: float) -> float:
        del seconds
        times = sorted(row.ttft_ms if row.ok else math.inf for row in rows)
        if not times:
            return math.nan
        if share is None:
            answered = [time for time in times if time < math.inf]
            return sum(answered) / len(answered) if answered else math.nan
        low, high = times[int(share * (len(times) - 1))], times[-1]
        return percentile(times, share) if high < math.inf else low

    return measure


def _throughput(rows: Sequence[Row], seconds: float) -> float:
    return sum(row.output_tokens for row in rows if row.ok) / seconds if seconds > 0 else math.nan


def _hit_rate(rows: Sequence[Row], seconds: float) -> float:
    del seconds
    prompt = sum(row.prompt_tokens for row in rows if row.ok)
    return sum(row.cached_tokens for row in rows if row.ok) / prompt if prompt else math.nan


def _success(rows: Sequence[Row], seconds: float) -> float:
    del seconds
    return sum(row.ok for row in rows) / len(rows) if rows else math.nan


GOALS: Mapping[str, Goal] = MappingProxyType(
    {
        goal.name: goal
        for goal in (
            Goal("p95_ttft", "ms", _ttft(0.95)),
            Goal("p50_ttft", "ms", _ttft(0.5)),
            Goal("p90_ttft", "ms", _ttft(0.9)),
            Goal("p99_ttft", "ms", _ttft(0.99)),
            Goal("mean_ttft", "ms", _ttft(None)),
            Goal("throughput", "tokens/s", _throughput, more_is_better=True),
            Goal("hit_rate", "", _hit_rate, more_is_better=True),
            Goal("success", "", _success, more_is_better=True),
        )
    }
)


def find_goal(name: str) -> Goal:
    """The goal of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in GOALS:
        raise ConfigError(f"no goal named {name!r}", field="--goal", hint=f"one of {', '.join(GOALS)}")
    return GOALS[name]


class Limit(msgspec.Struct, frozen=True):
    """A bound on a figure, such as ``p95_ttft<500``."""

    goal: Goal
    sign: str
    value: float

    def met(self, figure: float) -> bool:
        """Whether a figure is within; none is not."""
        compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[self.sign]
        return not math.isnan(figure) and bool(compare(figure, self.value))

    def __str__(self) -> str:
        return f"{self.goal.name}{self.sign}{self.value:g}"


def read_limit(text: str) -> Limit:
    """A bound as a user writes it.

    Raises:
        ConfigError: if it cannot be understood.
    """
    found = re.fullmatch(r"\s*([a-z0-9_]+)\s*(<=|>=|<|>)\s*([0-9.]+)\s*", text)
    try:
        if found is not None:
            return Limit(find_goal(found[1]), found[2], float(found[3]))
    except ValueError:
        pass
    raise ConfigError(f"{text!r} is no goal", field="--goal", hint="such as p95_ttft<500, or success>=0.999")


def figure_of(goal: Goal, rows: Sequence[Row]) -> float:
    """A goal's figure over rows."""
    return goal.measure(rows, seconds_of(rows))


def seconds_of(rows: Sequence[Row]) -> float:
    """From the first arrival to the last end."""
    if not rows:
        return 0.0
    return max(row.end for row in rows) - min(row.arrival for row in rows)


class Change(msgspec.Struct, frozen=True):
    """One figure before and after, on the same requests, and the interval that the difference lies in with 95 %."""

    before: float
    after: float
    low: float
    high: float
    requests: int

    @property
    def certain(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def change_of(goal: Goal, before: Sequence[Row], after: Sequence[Row], seed: int) -> Change:
    """The change between two runs on the same requests, by a paired moving-block bootstrap.

    Requests that come after another wait in the same queues, so single ones are not independent: runs of ``sqrt(n)``
    neighbours are drawn instead, the same of both sides (Kuensch 1989; the length is the usual rule of thumb).

    Args:
        goal: the figure.
        before: measured rows, in order of arrival.
        after: the same requests under the other policy.
        seed: of the draws.
    """
    other = {row.id: row for row in after}
    pairs = [(row, other[row.id]) for row in before if row.id in other]
    olds, news = [old for old, _ in pairs], [new for _, new in pairs]
    old_s, new_s = seconds_of(olds), seconds_of(news)
    figures = goal.measure(olds, old_s), goal.measure(news, new_s)
    length = max(1, math.isqrt(len(pairs)))
    rng, differences = Random(f"{seed}/bootstrap"), []
    for _ in range(1000 if len(pairs) <= 2000 else 300):
        picked: list[int] = []
        while len(picked) < len(pairs):
            start = rng.randrange(max(1, len(pairs) - length + 1))
            picked.extend(range(start, min(start + length, len(pairs))))
        del picked[len(pairs) :]
        difference = goal.measure([news[i] for i in picked], new_s) - goal.measure([olds[i] for i in picked], old_s)
        if math.isfinite(difference):
            differences.append(difference)
    differences.sort()
    if not differences:
        return Change(*figures, -math.inf, math.inf, len(pairs))
    return Change(*figures, percentile(differences, 0.025), percentile(differences, 0.975), len(pairs))
