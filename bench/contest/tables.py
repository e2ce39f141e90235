"""What the contest prints of a cell."""

from __future__ import annotations

from collections.abc import Sequence

from contest.figures import Metric, Ratio, Runs, best_rival, ratio, typical

COLUMNS: tuple[tuple[Metric, str], ...] = (("mean", "mean TTFT"), ("p95", "P95 TTFT"), ("tpot", "TPOT"))
MEAN_AND_OUTPUT: tuple[Metric, Metric] = ("mean", "output")


def cell_table(title: str, runs: Runs, ours: Sequence[str]) -> str:
    """Every policy's figures as ratios to the best rival's, with their spread; best mean first."""
    rivals = [name for name in runs if name not in ours]
    seeds = len(next(iter(runs.values())))
    lines = [f"\n{title}, {seeds} seed{'s' if seeds > 1 else ''}"]
    heads = "".join(f"{f'{head} / best':>24}" for _, head in COLUMNS)
    lines.append(f"  {'':15}{'mean ms':>9}{heads}{'hits':>7}{'tok/s':>8}{'ok':>7}")
    best = {metric: best_rival(runs, rivals, metric) for metric, _ in COLUMNS}
    for name in sorted(runs, key=lambda name: typical(runs[name], "mean")):
        row = "".join(f"{_ratio(ratio(runs[name], runs[best[metric]], metric)):>24}" for metric, _ in COLUMNS)
        shares = [one.share for one in runs[name] if one.share is not None]
        hits = f"{sum(shares) / len(shares):7.0%}" if shares else f"{'-':>7}"
        success = sum(one.success for one in runs[name]) / seeds
        mark = "*" if name in ours else " "
        mean, output = (typical(runs[name], metric) for metric in MEAN_AND_OUTPUT)
        lines.append(f"{mark} {name:15}{mean:9.1f}{row}{hits}{output:8.0f}{success:7.1%}")
    return "\n".join(lines)


def _ratio(found: Ratio) -> str:
    spread = "" if found.spread is None else f" ±{found.spread:.0%}"
    return f"{found.value:.3f}{spread}{' =' if found.tie else '  '}"
