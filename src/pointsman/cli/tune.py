"""``pointsman tune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from pointsman.cli.common import print_json
from pointsman.cli.lab_flags import WorkloadFlags
from pointsman.cli.replay_flags import AsJson, RecordsFile, SimulatedFlags, described, progress_bar
from pointsman.lab.html import check_writable
from pointsman.lab.policies import policy_source
from pointsman.lab.tune import Tuned, TuneOptions
from pointsman.lab.tune import tune as search
from pointsman.lab.tune_goals import Change, Goal, find_goal
from pointsman.lab.tune_space import find_space


def tune(
    policy: str = "default",
    /,
    *,
    goal: str = "p95_ttft",
    records: RecordsFile = None,
    asked: WorkloadFlags = WorkloadFlags(),  # noqa: B008 - frozen
    fleet: SimulatedFlags = SimulatedFlags(),  # noqa: B008 - frozen
    qps: float | None = None,
    space: Path | None = None,
    variants: int = 16,
    held_out: Annotated[float, Parameter(help="Share of the workload, its end, that only the verdict sees.")] = 0.3,
    out: Path | None = None,
    as_json: AsJson = False,
) -> int:
    """Find weights and parameters that suit a workload better, and say what that is worth.

    Successive halving: many variants on a short part of the workload, the better half on one twice as long, and so on.
    The change that is promised is measured on a part that the search has not seen, with a 95 % interval.

    ```console
    pointsman tune brief --workload chat --qps 12
    pointsman tune my-policy.yaml --records /var/lib/pointsman/records --goal mean_ttft --out tuned.yaml
    pointsman tune llm-d --trace conversation.jsonl --slice 0:900 --space space.yaml --variants 32 --json
    ```

    Parameters
    ----------
    policy
        What to begin with: a policy (see `pointsman compare --list-policies`) or a YAML file.
    goal
        p50_ttft, p90_ttft, p95_ttft, p99_ttft, mean_ttft, throughput, hit_rate or success.
    qps
        Load of a made-up workload, requests per second.
    space
        YAML file with what to search: `space:`, a mapping of PLUGIN.weight or PLUGIN.parameter to [low, high] or
        {choices: [...]}. Without one: all weights and numbers of the policy's filters, scorers and picker.
    variants
        Settings tried at first, the policy as it is among them.
    out
        File to write the configuration to, instead of printing it.
    """
    wanted = find_goal(goal)
    if out is not None:
        check_writable(out)
    source, options, _ = described(policy, asked, records, fleet, qps)
    found_space = find_space(policy_source(policy), space)
    how = TuneOptions(goal=wanted, variants=variants, held_out=held_out, seed=asked.seed, jobs=fleet.jobs)
    with progress_bar() as bar:
        tuned = search(found_space, source, options, how, lambda name, done, total: bar.tell(done, total, name))
    text = "".join(f"# {line}\n" for line in verdict(wanted, tuned)) + yaml.safe_dump(tuned.config, sort_keys=False)
    if out is not None:
        out.write_text(text, "utf-8")
    if as_json:
        print_json(_as_data(wanted, tuned))
        return 0
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for name, value in tuned.best.items():
        if value != tuned.before[name]:
            console.print(f"  {escape(name)}: {tuned.before[name]} → [bold]{value}[/]")
    for line in verdict(wanted, tuned):
        console.print(escape(line))
    if out is None:
        sys.stdout.write(text)
    return 0


def verdict(goal: Goal, tuned: Tuned) -> list[str]:
    """What came of it, in words."""
    change = tuned.change
    if change is None:
        return [f"No improvement of {goal.name}: none of the variants was better than the policy as it is."]
    line = f"{goal.name} on the held-out part ({change.requests:,} requests): {_words(goal, change)}"
    if tuned.improved(goal):
        return [f"Improvement. {line}"]
    if change.certain:
        return [f"No improvement: worse where the search has not looked. {line}"]
    return [f"No improvement that could be told from chance: the interval includes zero. {line}"]


def _words(goal: Goal, change: Change) -> str:
    unit = f" {goal.unit}" if goal.unit else ""
    return (
        f"{change.before:.4g} → {change.after:.4g}{unit}, change {change.after - change.before:+.3g} "
        f"[{change.low:+.3g}, {change.high:+.3g}] (95 %)"
    )


def _as_data(goal: Goal, tuned: Tuned) -> dict[str, object]:
    data: dict[str, object] = msgspec.to_builtins(tuned)
    return {"goal": goal.name, "improved": tuned.improved(goal), "verdict": " ".join(verdict(goal, tuned)), **data}
