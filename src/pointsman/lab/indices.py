"""How evenly a policy spreads its work, and what it leaves on the table, as numbers that compare across fleets.

====================  ==========================================================  ==================================
index                 formula                                                     reads
====================  ==========================================================  ==================================
``hot_spot``          mean over time of largest load / mean load of the pods;     1: even; number of pods: all on one
                      load = running + waiting, idle moments left out
``herding``           (s - c) / (1 - c); s: share of picks within a scrape        0: as by chance; 1: always the same
                      period of the pick before that go to the same pod;          pod; below 0: it alternates
                      c: sum of squares of the pods' shares of all picks
``busy_imbalance``    largest busy time / mean busy time of the pods              1: even
``ttft_regret_ms``    mean TTFT - its lower bound, milliseconds                   what perfect knowledge could save
``hit_regret``        (hits of an ideal LRU - hits) / prompt tokens               share of prefill done needlessly
====================  ==========================================================  ==================================

Some herding is right when neighbours in time share a prefix; it is harmful where it comes with a high ``hot_spot``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import msgspec

from pointsman.lab.oracle import Achievable
from pointsman.lab.results import LoadSample, Row, RunResult


class Indices(msgspec.Struct, frozen=True):
    """See the module's table; None where there was nothing to measure."""

    hot_spot: float | None
    herding: float | None
    busy_imbalance: float | None
    ttft_regret_ms: float | None
    hit_regret: float | None


def indices_of(result: RunResult, best: Achievable, scrape_period: float) -> Indices:
    """All indices of a run.

    Args:
        result: the run.
        best: what its requests allowed.
        scrape_period: seconds between two readings of a pod's metrics.
    """
    done = [row for row in result.measured() if row.ok]
    regret = hit_regret = None
    if done and best.ttft is not None:
        regret = sum(row.ttft_ms for row in done) / len(done) - best.ttft.mean_ms
    if best.prompt_tokens:
        hit_regret = (best.lru_tokens - sum(row.cached_tokens for row in done)) / best.prompt_tokens
    return Indices(
        hot_spot=hot_spot(result.load),
        herding=herding(result.rows, scrape_period),
        busy_imbalance=imbalance(result.busy_s),
        ttft_regret_ms=regret,
        hit_regret=hit_regret,
    )


def hot_spot(samples: Sequence[LoadSample]) -> float | None:
    """Largest load over mean load, averaged over time; a sample stands for the time until the next."""
    weighted = time = 0.0
    for sample, after in itertools.pairwise(samples):
        loads = [running + waiting for running, waiting in zip(sample.running, sample.waiting, strict=True)]
        total = sum(loads)
        if total:
            length = after.at - sample.at
            weighted += length * max(loads) * len(loads) / total
            time += length
    return weighted / time if time else None


def herding(rows: Sequence[Row], within: float) -> float | None:
    """How much more often than by chance a pick goes where the pick before it went.

    Args:
        rows: in order of arrival.
        within: pairs further apart than so many seconds are left out.
    """
    picks = [row for row in rows if row.pod >= 0]
    pairs = [(one.pod, two.pod) for one, two in itertools.pairwise(picks) if two.arrival - one.arrival <= within]
    if not pairs:
        return None
    counts = Counter(row.pod for row in picks)
    chance = sum(count * count for count in counts.values()) / len(picks) ** 2
    if chance == 1:
        return None
    return (sum(one == two for one, two in pairs) / len(pairs) - chance) / (1 - chance)


def imbalance(amounts: Sequence[float]) -> float | None:
    """Largest over mean; None when there is nothing."""
    total = sum(amounts)
    return max(amounts) * len(amounts) / total if total else None
