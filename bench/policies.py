"""Which policy wins: ours against every rival, cell by cell, and what must hold over all of them.

    python bench/policies.py --quick                                  # seven cells, one seed: about three minutes
    POINTSMAN_TRACES=/path/to/traces python bench/policies.py         # all of it: hours; see --list
    python bench/policies.py --cells zipf-15 chat-20 --seeds 5 --rivals dynamo llm-d
    python bench/policies.py --quick --json | jq '.aims.default'

A cell is a workload, a load and a fleet. Its table has a line for each policy: the mean TTFT, then mean and P95 of TTFT
and the mean TPOT as ratios to the rival that is best in that cell and figure, with their spread over seeds (``=`` is a
tie); hits as a share of an ideal shared cache's; tokens per second made while requests came; requests answered. Then
the aims, met or missed. How ratios, spreads and ties are reckoned: ``bench/contest/figures.py``; the cells:
``bench/contest/cells.py``. No policy sees a workload in advance, and all see the same requests at the same times.

Recorded traces are not part of the repository: ``--traces`` or $POINTSMAN_TRACES names a folder that has
mooncake_conversation.jsonl (kvcache-ai/Mooncake), azure2023_conv.csv (Azure/AzurePublicDataset) and
weka_agentic_flat_delta.jsonl.gz (made from callanjfox/kv-cache-tester). Without them only made-up cells run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from contest.aims import Aim, Found, Judge
from contest.cells import QUICK, Cell, all_cells
from contest.figures import Figures, figures_of
from contest.tables import cell_table

from pointsman.lab.compare import compare
from pointsman.lab.policies import POLICIES

OURS = ("default", "precise")
RIVALS = tuple(name for name in POLICIES if name not in OURS)
TRACES = "POINTSMAN_TRACES"


def run_cell(cell: Cell, policies: Sequence[str], seeds: int, jobs: int) -> dict[str, list[Figures]]:
    """Every policy on every seed of a cell; only figures are kept, as rows of hundreds of runs fill the memory."""
    specs = [cell.spec(policy, seed) for policy in policies for seed in range(1, seeds + 1)]
    figures = [figures_of(run) for run in compare(specs, jobs)]
    return {policy: figures[at * seeds : (at + 1) * seeds] for at, policy in enumerate(policies)}


def aims_table(aims: dict[str, list[Aim]]) -> str:
    """The summary."""
    lines = []
    for policy, found in aims.items():
        lines.append(f"\n{policy}")
        lines += [f"  {aim.verdict.upper():8}{aim.aim}: {aim.detail or '-'}" for aim in found]
    return "\n".join(lines)


def chosen(options: argparse.Namespace) -> list[Cell]:
    """The cells asked for."""
    cells = all_cells(options.traces)
    wanted = options.cells or (QUICK if options.quick else None)
    unknown = sorted(set(options.cells or ()) - {cell.name for cell in cells})
    if unknown:
        known = ", ".join(cell.name for cell in cells)
        sys.exit(f"no such cell (or its trace is missing, see --traces): {', '.join(unknown)}; cells: {known}")
    return [cell for cell in cells if wanted is None or cell.name in wanted]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="only these; --list shows them")
    parser.add_argument("--seeds", type=int, help="of every cell; otherwise each has its own number, 3 or 10")
    parser.add_argument("--quick", action="store_true", help="a few cells, one seed")
    parser.add_argument("--ours", nargs="+", default=list(OURS), metavar="POLICY", help="names or files; judged")
    parser.add_argument(
        "--rivals", nargs="+", default=list(RIVALS), metavar="POLICY", help="what they are held against"
    )
    parser.add_argument("--traces", type=Path, default=os.environ.get(TRACES), help=f"folder of traces; ${TRACES}")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: as many as there are cores")
    parser.add_argument("--json", action="store_true", help="print JSON at the end and nothing before it")
    parser.add_argument("--list", action="store_true", help="print the cells and end")
    options = parser.parse_args()
    if options.traces is not None and not options.traces.is_dir():
        parser.error(f"--traces: no folder {options.traces}")
    if options.seeds is not None and options.seeds < 1:
        parser.error("--seeds must be 1 or more")
    return options


def finite(value: object) -> object:
    """For JSON, which has no infinity."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    options = arguments()
    cells = chosen(options)
    if options.list:
        print("\n".join(f"{cell.name:26}{cell.kind:8}{cell.seeds:3} seeds" for cell in cells))
        return
    policies, began = [*options.ours, *(name for name in options.rivals if name not in options.ours)], time.monotonic()
    found: list[Found] = []
    for number, cell in enumerate(cells, 1):
        seeds = options.seeds or (1 if options.quick else cell.seeds)
        runs = run_cell(cell, policies, seeds, options.jobs)
        found.append(Found(name=cell.name, kind=cell.kind, runs=runs))
        if not options.json:
            took = f"{number} of {len(cells)}, {time.monotonic() - began:.0f} s"
            print(cell_table(f"{cell.name} ({cell.kind}; {took})", runs, options.ours), flush=True)
    rivals = [name for name in policies if name not in options.ours]
    aims = {policy: Judge(policy, rivals, found).aims() for policy in options.ours}
    if options.json:
        print(json.dumps(finite(msgspec.to_builtins({"cells": found, "aims": aims}))))
    else:
        print(aims_table(aims))


if __name__ == "__main__":
    main()
