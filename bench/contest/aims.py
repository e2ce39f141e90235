"""What our policies must reach over all cells, told as met, missed or tie.

``tie``: where ours must not be worse than a rival it is, but in no cell by more than what seeds make of it; where it
must be better by so much it falls short by no more than that. See :mod:`contest.figures`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from contest.figures import Metric, Ratio, Runs, best_rival, geometric, ratio, typical

Verdict = Literal["met", "missed", "tie", "no cell"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All of one cell."""

    name: str
    kind: str
    runs: Runs


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the summary."""

    aim: str
    verdict: Verdict
    value: float | None
    detail: str = ""


class Judge:
    """Holds one of our policies against the rivals.

    Args:
        policy: ours.
        rivals: all others that are not ours.
        cells: what was run.
    """

    def __init__(self, policy: str, rivals: Sequence[str], cells: Sequence[Found]) -> None:
        self.policy, self.rivals = policy, rivals
        self.below = [cell for cell in cells if cell.kind == "below"]
        self.beyond = [cell for cell in cells if cell.kind == "beyond"]
        self.ladder = [cell for cell in cells if cell.kind == "ladder"]

    def aims(self) -> list[Aim]:
        """All lines."""
        return [*self.on_the_ladder(), *self.below_capacity(), *self.beyond_capacity()]

    def against(self, cell: Found, metric: Metric, rival: str | None = None) -> Ratio:
        """Over a rival's figure in a cell; without a name, over the best one's."""
        rival = rival or best_rival(cell.runs, self.rivals, metric)
        return ratio(cell.runs[self.policy], cell.runs[rival], metric)

    # -- the brief's ladder ---------------------------------------------------------------------------------------

    def on_the_ladder(self) -> list[Aim]:
        """From the rung where round-robin saturates: its median is ten times that of the lowest rung."""
        if not self.ladder or "round-robin" not in self.ladder[0].runs:
            return [Aim(aim="brief's ladder", verdict="no cell", value=None)]
        lowest = typical(self.ladder[0].runs["round-robin"], "p50")
        full = [cell for cell in self.ladder if typical(cell.runs["round-robin"], "p50") > 10 * lowest]
        aims = [self._below_round_robin(full, metric) for metric in ("p50", "p95")]
        aims += [self._lowest("success 100 %", lambda cell: self._least(cell, "success"), 1.0)]
        aims += [self._lowest("hits ≥ 95 % of the oracle's", lambda cell: self._least(cell, "share"), 0.95)]
        aims += [self._output(full)]
        aims += [self._worst(self.ladder, metric, 1.0, f"every rung: {metric} ≤ the best rival") for metric in MEAN_P95]
        return aims

    def _below_round_robin(self, cells: Sequence[Found], metric: Metric) -> Aim:
        cuts = {cell.name: 1 - self.against(cell, metric, "round-robin").value for cell in cells}
        aim = f"where round-robin saturates: TTFT {metric} ≥ 99 % below it"
        if not cuts:
            return Aim(aim=aim, verdict="no cell", value=None)
        least = min(cuts.values())
        reached = ", ".join(f"{name} {cut:.1%}" for name, cut in cuts.items())
        return Aim(aim=aim, verdict="met" if least >= 0.99 else "missed", value=least, detail=reached)

    def _least(self, cell: Found, field: str) -> float:
        values = [getattr(one, field) for one in cell.runs[self.policy]]
        return min((float(value) for value in values if value is not None), default=1.0)

    def _lowest(self, name: str, of: Callable[[Found], float], limit: float) -> Aim:
        values = {cell.name: of(cell) for cell in self.ladder}
        worst = min(values, key=lambda cell: values[cell])
        met = values[worst] >= limit
        return Aim(
            aim=f"every rung: {name}",
            verdict="met" if met else "missed",
            value=values[worst],
            detail=f"least at {worst}: {values[worst]:.2%}",
        )

    def _output(self, full: Sequence[Found]) -> Aim:
        aim = "output at saturation: no policy makes more"
        if not full:
            return Aim(aim=aim, verdict="no cell", value=None)
        top = {name: max(typical(cell.runs[name], "output") for cell in full) for name in (self.policy, *self.rivals)}
        best = max(self.rivals, key=lambda name: top[name])
        share, over = top[self.policy] / top[best], top[self.policy] / top["round-robin"] - 1
        gaps = [self.against(cell, "output") for cell in full]
        verdict: Verdict = "met" if share >= 1 else "tie" if all(gap.tie for gap in gaps) else "missed"
        detail = f"{top[self.policy]:.0f} tok/s, {over:+.0%} over round-robin, {share - 1:+.1%} over {best}"
        return Aim(aim=aim, verdict=verdict, value=share, detail=detail)

    # -- below capacity -------------------------------------------------------------------------------------------

    def below_capacity(self) -> list[Aim]:
        """Over all cells that the fleet can carry."""
        if not self.below:
            return [Aim(aim="below capacity", verdict="no cell", value=None)]
        aims = [
            self._median("dynamo", 0.80),
            self._median("llm-d", 0.75),
            self._overall(0.95),
        ]
        aims += [self._worst(self.below, metric, 1.05, f"below: no cell > 5 % worse, {metric}") for metric in MEAN_P95]
        return [*aims, self._worst(self.below, "tpot", 1.03, "below: TPOT within 3 % of the best")]

    def _median(self, rival: str, limit: float) -> Aim:
        aim = f"below: mean TTFT in the median cell ≥ {1 - limit:.0%} below {rival}"
        cells = [cell for cell in self.below if rival in cell.runs]
        if not cells:
            return Aim(aim=aim, verdict="no cell", value=None)
        value = statistics.median(self.against(cell, "mean", rival).value for cell in cells)
        return Aim(aim=aim, verdict="met" if value <= limit else "missed", value=value, detail=f"{value - 1:+.1%}")

    def _overall(self, limit: float) -> Aim:
        ratios = [self.against(cell, "mean") for cell in self.below]
        value = geometric([one.value for one in ratios])
        # The seeds' doubt of a mean of independent ratios.
        noise = math.sqrt(sum(one.noise**2 for one in ratios)) / len(ratios)
        verdict: Verdict = "met" if value <= limit else "tie" if math.log(value / limit) <= noise else "missed"
        ties = sum(one.tie for one in ratios)
        won = sum(one.value < 1 and not one.tie for one in ratios)
        detail = f"{value - 1:+.1%}; {won} cells won, {ties} ties, {len(ratios) - won - ties} lost"
        return Aim(aim="below: mean TTFT ≥ 5 % below the best rival of each cell, geometric mean",
                   verdict=verdict, value=value, detail=detail)  # fmt: skip

    def _worst(self, cells: Sequence[Found], metric: Metric, limit: float, aim: str) -> Aim:
        ratios = {cell.name: self.against(cell, metric) for cell in cells}
        over = {name: one for name, one in ratios.items() if one.value > limit}
        lost = {name: one for name, one in over.items() if one.beyond(limit)}
        worst = max(ratios, key=lambda name: ratios[name].value)
        shown = lost or over or {worst: ratios[worst]}
        verdict: Verdict = "missed" if lost else "tie" if over else "met"
        return Aim(aim=aim, verdict=verdict, value=ratios[worst].value, detail=self._names(shown, cells, metric))

    def _names(self, ratios: Mapping[str, Ratio], cells: Sequence[Found], metric: Metric) -> str:
        runs = {cell.name: cell.runs for cell in cells}
        return ", ".join(
            f"{name} {one.value - 1:+.1%} ({best_rival(runs[name], self.rivals, metric)})"
            for name, one in sorted(ratios.items(), key=lambda pair: -pair[1].value)
        )

    # -- beyond capacity ------------------------------------------------------------------------------------------

    def beyond_capacity(self) -> list[Aim]:
        """Where requests come faster than the fleet can work."""
        cells = self.beyond
        if not cells:
            return [Aim(aim="beyond capacity", verdict="no cell", value=None)]
        aims = [self._worst(cells, metric, 1.0, f"beyond: {metric} ≤ the best rival") for metric in MEAN_P95]
        # Of output more is better: the rival's over ours. Held against the rival with the best mean, whose latency is
        # what ours is measured by too; whoever makes more at a worse latency is in the tables.
        ratios = {}
        for cell in cells:
            rival = best_rival(cell.runs, self.rivals, "mean")
            ratios[cell.name] = ratio(cell.runs[rival], cell.runs[self.policy], "output")
        lost = {name: one for name, one in ratios.items() if one.beyond(1.0)}
        over = {name: one for name, one in ratios.items() if one.value > 1}
        verdict: Verdict = "missed" if lost else "tie" if over else "met"
        detail = ", ".join(f"{name} {1 / one.value - 1:+.1%}" for name, one in (lost or over or ratios).items())
        return [*aims, Aim(aim="beyond: no less output than the best rival in the mean", verdict=verdict,
                           value=max(one.value for one in ratios.values()), detail=detail)]  # fmt: skip


MEAN_P95: tuple[Metric, ...] = ("mean", "p95")
