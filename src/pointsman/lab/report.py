"""Comparisons, grouped for people and scripts: one rung per load, one entry per policy, the mean over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from pointsman.lab.compare import Comparison


class Rung(msgspec.Struct, frozen=True):
    """One workload at one load.

    Attributes:
        workload: its name.
        qps: requests per second asked for; None: as the workload is.
        policies: by name in the order of the command line, a run per seed.
    """

    workload: str
    qps: float | None
    policies: dict[str, list[Comparison]]

    @property
    def title(self) -> str:
        """The workload and its load."""
        return self.workload if self.qps is None else f"{self.workload} at {self.qps:g} QPS"

    @property
    def first(self) -> Comparison:
        """Some run of the rung."""
        return next(iter(self.policies.values()))[0]


def rungs(comparisons: Sequence[Comparison]) -> list[Rung]:
    """Group runs, in the order in which loads and policies first appear."""
    found: dict[tuple[str, float | None], Rung] = {}
    for one in comparisons:
        source = one.spec.workload
        rung = found.setdefault((source.label, source.qps), Rung(source.label, source.qps, {}))
        rung.policies.setdefault(one.spec.policy, []).append(one)
    return list(found.values())


def as_json(groups: Sequence[Rung]) -> dict[str, object]:
    """Everything for scripts.

    Returns:
        ``rungs``: per load ``workload``, ``qps``, ``achievable`` and ``policies`` (name to figures; the mean over
        seeds, with ``spread`` (standard deviation) when there are several). With a single rung its entries also stand
        at the top.
    """
    listed = [_rung_json(rung) for rung in groups]
    top: dict[str, object] = dict(listed[0]) if len(listed) == 1 else {}
    return {**top, "rungs": listed}


def _rung_json(rung: Rung) -> dict[str, object]:
    policies = {}
    for name, runs in rung.policies.items():
        figures = [run.figures() for run in runs]
        policies[name] = {**over_seeds(figures, statistics.fmean), "seeds": len(runs)}
        if len(runs) > 1:
            policies[name]["spread"] = over_seeds(figures, statistics.stdev)
    best = over_seeds([run.best.summary() for run in next(iter(rung.policies.values()))], statistics.fmean)
    return {"workload": rung.workload, "qps": rung.qps, "achievable": best, "policies": policies}


def over_seeds(figures: Sequence[Mapping[str, object]], summarize: object) -> dict[str, object]:
    """Nested figures of several runs as one.

    Args:
        figures: of the same shape; a number may be None in some.
        summarize: what to make of two or more numbers; a single one is itself, none are None.
    """
    assert callable(summarize)
    keys = dict.fromkeys(key for one in figures for key in one)
    merged: dict[str, object] = {}
    for key in keys:
        values = [one.get(key) for one in figures]
        nested = [value for value in values if isinstance(value, Mapping)]
        numbers = [value for value in values if isinstance(value, int | float)]
        if nested:
            merged[key] = over_seeds(nested, summarize)
        elif len(numbers) == 1 or len(set(numbers)) == 1:
            merged[key] = numbers[0] if summarize is statistics.fmean else 0.0
        else:
            merged[key] = summarize(numbers) if numbers else None
    return merged
