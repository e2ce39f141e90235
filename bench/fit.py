"""How fast the latency model fits itself, and what that is worth: wrong seeds, simulated engines, brief workload.

python bench/fit.py [--json] [--quick]: error of predicted prefill and decode step times against the engines' own, after
so many answers, for each seed and each share of answers looked at; and the default policy's TTFT with the fit and
without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import yaml

from pointsman.framework.loader import read_source
from pointsman.framework.plugin import CostModel
from pointsman.lab.options import FleetOptions
from pointsman.lab.requests import Workload
from pointsman.lab.results import RunResult
from pointsman.lab.runner import Run
from pointsman.lab.workloads.brief import Brief
from pointsman.sim.profiles import DEFAULT_PROFILE, EngineProfile, find_profile

AFTER = (50, 100, 300, 1000)
"""Answers."""
SEEDS = (
    (1.0, 1.0),
    (1 / 3, 1.0),
    (3.0, 1.0),
    (1.0, 1 / 3),
    (1.0, 3.0),
    (1 / 3, 1 / 3),
    (3.0, 3.0),
    (1 / 3, 3.0),
    (3.0, 1 / 3),
)
"""Factors on the prefill and decode coefficients that the model begins with."""
SHARES = (1.0, 0.05)
PROMPTS = ((300, 6900), (1200, 6000), (7200, 0))
"""Tokens to compute, tokens in the cache."""
BATCHES = ((5, 7700), (20, 7700), (40, 7700))
"""Requests that decode, tokens of context of each."""
OUTPUT = 400


def seed_of(profile: EngineProfile, prefill: float, decode: float) -> dict[str, Any]:
    """A calibration that is off by so much."""
    wrong: dict[str, Any] = msgspec.to_builtins(profile)
    for name, value in wrong.items():
        if name.startswith("prefill_"):
            wrong[name] = value * prefill
        elif name.startswith("decode_"):
            wrong[name] = value * decode
    return wrong


def errors(cost: CostModel, profile: EngineProfile) -> tuple[float, float]:
    """Largest relative error of prefills, and of decode steps; signed."""
    prefill = [cost.prefill_ms(n, c) / (profile.prefill_fixed + profile.chunk_ms(n, c)) - 1 for n, c in PROMPTS]
    decode = [cost.decode_step_ms(b, b * c) / profile.step_ms(b, b * c, 0.0) - 1 for b, c in BATCHES]
    return max(prefill, key=abs), max(decode, key=abs)


class Watched:
    """A run that notes the model's errors as answers end."""

    def __init__(self, policy: str, workload: Workload, options: FleetOptions) -> None:
        self.run = Run(policy, workload, options)
        self.profile = options.profile
        self.noted: dict[int, tuple[float, float]] = {}
        self.run.plan(0.0, self._look)

    def _look(self) -> None:
        run = self.run
        ended = sum(row.end >= 0 for row in run.result.rows)
        for count in AFTER:
            if ended >= count and count not in self.noted:
                self.noted[count] = errors(run.cost, self.profile)
        run.plan(run.clock.now() + 0.5, self._look)


def write_policy(folder: Path, name: str, seed: dict[str, Any], *, fit: bool) -> str:
    """The default policy with that seed."""
    (folder / f"{name}-profile.yaml").write_text(yaml.safe_dump(seed), "utf-8")
    text, _ = read_source("default")
    path = folder / f"{name}.yaml"
    path.write_text(f"{text}\nlatencyProfile: {name}-profile.yaml\nlatencyFit: {str(fit).lower()}\n", "utf-8")
    return str(path)


def ttft(result: RunResult) -> tuple[float, float]:
    """Mean and P95, milliseconds."""
    values = [row.ttft_ms for row in result.measured() if row.ok]
    return statistics.mean(values), statistics.quantiles(values, n=20)[18]


def one(
    folder: Path, qps: float, scale: float, seed: tuple[float, float], share: float, *, fit: bool
) -> dict[str, Any]:
    """One run."""
    profile = find_profile(DEFAULT_PROFILE)
    policy = write_policy(folder, "policy", seed_of(profile, *seed), fit=fit)
    options = FleetOptions(profile=profile, observe_share=share, sample=0.0)
    watched = Watched(policy, Brief(qps=qps, scale=scale, output=OUTPUT, seed=3), options)
    mean, p95 = ttft(watched.run.run())
    return {
        "prefill_seed": round(seed[0], 3),
        "decode_seed": round(seed[1], 3),
        "share": share,
        "fit": fit,
        "errors": {str(n): [round(x, 4) for x in pair] for n, pair in watched.noted.items()},
        "mean_ttft_ms": round(mean, 1),
        "p95_ttft_ms": round(p95, 1),
        "model": watched.run.cost.describe() if fit else None,  # type: ignore[attr-defined]
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For people."""
    head = "seed x prefill, decode   share | error of prefill, step after " + "".join(f"{n:>16}" for n in AFTER)
    lines = [f"{head} | TTFT mean, P95"]
    for row in rows:
        cells = "".join(
            "{:>+8.1%}{:>+8.1%}".format(*row["errors"][str(n)]) if str(n) in row["errors"] else f"{'-':>16}"
            for n in AFTER
        )
        name = f"{row['prefill_seed']:>8}{row['decode_seed']:>8}{row['share']:>15}"
        lines.append(
            f"{name} | {'fitted' if row['fit'] else 'as seeded':<29}{cells} | "
            f"{row['mean_ttft_ms']:7.1f} {row['p95_ttft_ms']:7.1f}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--qps", type=float, default=12.0, help="requests per second on 8 pods")
    parser.add_argument("--scale", type=float, default=0.25, help="factor on the length of the measured part")
    parser.add_argument("--quick", action="store_true", help="two seeds only")
    options = parser.parse_args()
    seeds = ((3.0, 3.0), (1 / 3, 1 / 3)) if options.quick else SEEDS
    with TemporaryDirectory() as folder:
        run = partial(one, Path(folder), options.qps, options.scale)
        rows = [run(seed, share, fit=True) for share in SHARES for seed in seeds]
        rows += [run(seed, SHARES[-1], fit=False) for seed in seeds]
    sys.stdout.write(json.dumps(rows) + "\n" if options.json else table(rows))


if __name__ == "__main__":
    main()
