"""Tunes a policy to a workload: searches its weights and numbers by successive halving, and says what that is worth.

Many variants run on a short part of the workload, the better half of them on one twice as long, and so on
(Jamieson and Talwalkar 2016). The best and the policy as it is then run on a part that the search has never seen, and
the change between the two is given with its interval: a search always finds something that looks good where it looked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from pointsman.errors import ConfigError
from pointsman.lab.compare import Comparison, compare
from pointsman.lab.compare_specs import RunSpec, WorkloadSource
from pointsman.lab.options import FleetOptions
from pointsman.lab.replay_parts import Part, span
from pointsman.lab.tune_goals import Change, Goal, change_of, figure_of
from pointsman.lab.tune_space import Space, draw_allowed

WARM_UP = 0.2
"""Share of a part that fills caches and is not counted."""
SUCCESS_SLACK = 0.001
"""Share of requests that a variant may lose more than the policy as it is."""
Tell = Callable[[str, int, int], None]
"""Told which round it is, how many runs of it have ended, and of how many."""


class TuneOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to search.

    Attributes:
        goal: what to improve.
        variants: tried at first, the policy as it is among them.
        held_out: share of the workload kept for the verdict, its end.
        seed: of the variants and the bootstrap.
        jobs: processes; 0: as many as there are cores.
    """

    goal: Goal
    variants: int = 16
    held_out: float = 0.3
    seed: int = 1
    jobs: int = 0

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: naming the option.
        """
        if self.variants < 2:
            raise ConfigError("must be at least 2", field="--variants")
        if not 0.05 <= self.held_out <= 0.9:
            raise ConfigError(f"must be 0.05 to 0.9, got {self.held_out:g}", field="--held-out")


class Variant(msgspec.Struct):
    """One setting, and its figures on the parts it ran on."""

    number: int
    setting: dict[str, Any]
    figures: list[float] = []


class Tuned(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        best: the setting; the policy as it is when nothing was better.
        before: the setting as it is.
        config: the best as a configuration.
        searched: change on the part searched last: flattering.
        change: change on the held-out part: the one to believe; None when nothing was better in the search.
        runs: made in all.
        rounds: variants and share of the searched part, per round.
    """

    best: dict[str, Any]
    before: dict[str, Any]
    config: dict[str, Any]
    searched: Change | None
    change: Change | None
    runs: int
    rounds: list[tuple[int, float]]

    def improved(self, goal: Goal) -> bool:
        """Whether the held-out part bears it out: the interval leaves zero out, on the good side."""
        change = self.change
        return change is not None and change.certain and goal.better(change.after, change.before)


class Tuner:
    """One search.

    Args:
        space: the policy.
        workload: to tune it for.
        fleet: on which.
        options: how.
        tell: told of progress.
    """

    def __init__(
        self,
        space: Space,
        workload: WorkloadSource,
        fleet: FleetOptions,
        options: TuneOptions,
        tell: Tell | None = None,
    ) -> None:
        options.check()
        self._space, self._workload, self._fleet, self._options = space, workload, fleet, options
        self._tell = tell or (lambda _round, _done, _total: None)
        self._runs = 0

    def run(self) -> Tuned:
        """Search and judge.

        Raises:
            ConfigError: if the workload is too short to be divided, or cannot be run.
        """
        first, last = span(self._workload)
        if not last > first:
            raise ConfigError("all its requests come at once, so no part of it can be held out", field="workload")
        with TemporaryDirectory(prefix="pointsman-tune-") as folder:
            return self._run(first, last, Path(folder))

    def _run(self, first: float, end: float, folder: Path) -> Tuned:
        searched = (end - first) * (1 - self._options.held_out)
        variants = self._variants(folder)
        rounds, last = self._halve(variants, first, searched, folder)
        best = variants[0]
        for variant in variants:
            if len(variant.figures) == len(rounds) and self._options.goal.better(variant.figures[-1], best.figures[-1]):
                best = variant
        flattering = change = None
        if best.number:
            flattering = self._change(last, 0, best.number)
            begin = first + searched
            held_out = Part(
                whole=self._workload,
                begin=begin,
                end=math.nextafter(end, math.inf),
                warm=max(0.0, begin - WARM_UP * searched),
            )
            judged = self._round("held-out part", [variants[0], best], held_out, folder)
            change = self._change(judged, 0, best.number)
        return Tuned(
            best.setting,
            variants[0].setting,
            self._space.applied(best.setting),
            flattering,
            change,
            self._runs,
            rounds,
        )

    def _variants(self, folder: Path) -> list[Variant]:
        """The policy as it is, and others that its plugins allow, each with a file."""
        rng = Random(f"{self._options.seed}/variants")
        variants = [Variant(0, self._space.setting_now())]
        self._write(variants[0], folder)
        for number in range(1, self._options.variants):
            variants.append(Variant(number, draw_allowed(self._space, rng)))
            self._write(variants[-1], folder)
        return variants

    def _write(self, variant: Variant, folder: Path) -> None:
        _file(folder, variant.number).write_bytes(msgspec.json.encode(self._space.applied(variant.setting)))

    def _halve(
        self, variants: list[Variant], first: float, searched: float, folder: Path
    ) -> tuple[list[tuple[int, float]], dict[int, Comparison]]:
        """Rounds of half as many variants on parts twice as long, the last on all that is searched."""
        goal, left = self._options.goal, variants
        count = max(1, math.ceil(math.log2(len(variants))))
        rounds: list[tuple[int, float]] = []
        found: dict[int, Comparison] = {}
        for number in range(count):
            share = 0.5 ** (count - 1 - number)
            own = self._workload_warms_up(first, searched)
            begin = first if own else first + WARM_UP * searched * share
            part = Part(whole=self._workload, begin=begin, end=first + searched * share)
            found = self._round(f"round {number + 1} of {count}", left, part, folder)
            rounds.append((len(left), share))
            floor = _success(found[0]) - SUCCESS_SLACK
            for variant in left:
                figure = figure_of(goal, found[variant.number].result.measured())
                variant.figures.append(figure if _success(found[variant.number]) >= floor else math.nan)
            order = sorted(left[1:], key=lambda variant: _rank(goal, variant.figures[-1]))
            left = [variants[0], *order[: max(1, len(left) // 2 - 1)]]
        return rounds, found

    @staticmethod
    def _workload_warms_up(first: float, searched: float) -> bool:
        """Whether enough comes before the first request that counts to fill caches."""
        return first > WARM_UP * searched

    def _round(self, name: str, variants: Sequence[Variant], part: Part, folder: Path) -> dict[int, Comparison]:
        specs = [
            RunSpec(policy=str(_file(folder, variant.number)), workload=part, options=self._fleet)
            for variant in variants
        ]
        self._runs += len(specs)
        self._tell(name, 0, len(specs))
        results = compare(specs, self._options.jobs, lambda done, total, _label: self._tell(name, done, total))
        return {variant.number: result for variant, result in zip(variants, results, strict=True)}

    def _change(self, found: dict[int, Comparison], before: int, after: int) -> Change | None:
        if before not in found or after not in found:
            return None
        old, new = found[before].result.measured(), found[after].result.measured()
        return change_of(self._options.goal, old, new, self._options.seed)


def tune(
    space: Space, workload: WorkloadSource, fleet: FleetOptions, options: TuneOptions, tell: Tell | None = None
) -> Tuned:
    """Search and judge, see :class:`Tuner`; the same for the same arguments.

    Raises:
        ConfigError: if that cannot be done.
    """
    return Tuner(space, workload, fleet, options, tell).run()


def _file(folder: Path, number: int) -> Path:
    return folder / f"variant-{number}.yaml"


def _success(comparison: Comparison) -> float:
    rows = comparison.result.measured()
    if not rows:
        raise ConfigError("a part of the workload has no request in it", hint="take a longer one, or fewer --variants")
    return sum(row.ok for row in rows) / len(rows)


def _rank(goal: Goal, figure: float) -> float:
    """Lower is better, none is last."""
    if math.isnan(figure):
        return math.inf
    return -figure if goal.more_is_better else figure
