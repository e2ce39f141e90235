"""The KV-cache index: look-up, ingestion, memory and stalls, against a plain reference walk and Dynamo's RadixTree.

    python bench/index.py                    # ours and the walk: about a minute
    python bench/index.py --with-dynamo      # and ai-dynamo-runtime, installed into a throw-away venv (75 MB)
    python bench/index.py --pure             # and our Python twin, as without a compiler
    python bench/index.py --large            # and memory at 10 M blocks
    python bench/index.py --json | jq .ratios

Every contender has a process of its own. They take turns, round after round, one at a time, so that what else runs on
the machine hits all of them; numbers are medians over the rounds, ratios those of the medians. Times are
seconds of the processor or of the clock, whichever are fewer (RadixTree hands work to a thread), unless it says
"clock": on a busy machine that measures the others. Memory is measured in processes that have done nothing else.

Look-ups ask for 400 blocks with keys just made; the pods share prefixes of 200 and each chain has its own rest.

Ingestion is from bytes to index. "vLLM bytes": the same MessagePack for all, 16 token ids a block. Ours decodes it,
chains its own keys from the tokens and keeps the pod's view. RadixTree's binding takes JSON of block and token hashes
and nothing else, so what stands between is counted as its decoding: msgspec, its own compute_block_hash_for_seq, and
msgspec's JSON. The walk believes the engine's hashes and skips the tokens. "own bytes": no tokens, hashes ready-made:
MessagePack for ours and the walk, and for RadixTree the very JSON that apply_event wants.

Stalls are ours alone: queries while 64 pods send events, beside a control in which the event loop or the thread only
watches the clock for as long. What the control has too is the machine's doing. "turn before it" is what the loop does
before a query gets its turn: the two together are what a query waits for on our account.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from indexing.contenders import PODS
from indexing.worker import serve

KINDS = ("compiled", "pure", "walk", "radixtree")
AIMS = "aims: look-up p99 <= 50 us at 512 pods; ingestion >= 2 x RadixTree; <= 64 B a block; a query < 1 ms meanwhile"


class Contender:
    """A worker process, asked line by line."""

    def __init__(self, kind: str, python: str) -> None:
        self._kind = kind
        environment = {**os.environ, "POINTSMAN_PURE": "1" if kind == "pure" else ""}
        self._process = subprocess.Popen(
            [python, __file__, "--worker", kind],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._kind} failed")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of each number, over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def in_turns(contenders: dict[str, Contender], rounds: int, command: str) -> dict[str, dict[str, float]]:
    """Medians of a measurement, by contender."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in contenders}
    for _ in range(rounds):
        for kind, contender in contenders.items():
            found[kind].append(contender.ask(command))
    return {kind: medians(each) for kind, each in found.items()}


def run(pythons: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Everything, by contender."""
    contenders = {kind: Contender(kind, python) for kind, python in pythons.items()}
    ingestion = in_turns(contenders, options.rounds, "ingest")
    found: dict[str, Any] = {kind: {"lookup": {}, "ingestion": ingestion[kind]} for kind in pythons}
    for pods in PODS:
        for contender in contenders.values():
            contender.ask("build", pods)
        for kind, lookup in in_turns(contenders, options.rounds, "lookup").items():
            found[kind]["lookup"][str(pods)] = lookup
    for contender in contenders.values():
        contender.close()
    for kind, python in pythons.items():
        found[kind]["memory"] = {size: measured(kind, python, blocks) for size, blocks in sizes(kind, options).items()}
    stalls = Contender("compiled", pythons["compiled"])
    found["compiled"]["stalls"] = stalls.ask("stalls", options.seconds)
    stalls.close()
    return found


def sizes(kind: str, options: argparse.Namespace) -> dict[str, int]:
    """Blocks to fill each with; dicts of 10 M blocks take 3 GB and are left out."""
    return {"1M": 1_000_000} | ({"10M": 10_000_000} if options.large and kind in {"compiled", "radixtree"} else {})


def measured(kind: str, python: str, blocks: int) -> Any:
    """Memory, in a fresh process: what is freed would hide what is taken."""
    fresh = Contender(kind, python)
    found = fresh.ask("memory", blocks)
    fresh.close()
    return found


def ratios(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Ours through theirs for rates, theirs through ours for times and bytes: above 1 we are ahead."""
    ours, made = found["compiled"], {}
    for kind, theirs in found.items():
        if kind == "compiled":
            continue
        made[kind] = {
            **{f"lookup {p} p99": theirs["lookup"][p]["p99"] / ours["lookup"][p]["p99"] for p in ours["lookup"]},
            **{name: ours["ingestion"][name] / theirs["ingestion"][name] for name in ours["ingestion"]},
            "memory": theirs["memory"]["1M"]["index"] / ours["memory"]["1M"]["index"],
        }
        if kind == "radixtree":  # ours with everything against theirs with everything done beforehand
            for name in ("many", "one"):
                made[kind][f"{name}, its JSON ready-made"] = (
                    ours["ingestion"][name] / theirs["ingestion"][f"{name}_own"]
                )
    return made


def show(found: dict[str, Any], shares: dict[str, dict[str, float]]) -> None:
    """Two tables."""
    rows: list[tuple[str, str, list[str]]] = []
    for pods in PODS:
        cells = ["{p50:.1f}/{p99:.1f} µs".format(**row["lookup"][str(pods)]) for row in found.values()]
        rows.append((f"look-up 400 blocks, {pods} pods, p50/p99", f"lookup {pods} p99", cells))
    for what, name, unit, form in (
        ("400-block events, vLLM bytes", "many", 1e6, "{:.2f} M blk/s"),
        ("1-block events, vLLM bytes", "one", 1e3, "{:.0f} k ev/s"),
        ("400-block events, own bytes", "many_own", 1e6, "{:.2f} M blk/s"),
        ("1-block events, own bytes", "one_own", 1e3, "{:.0f} k ev/s"),
    ):
        rows.append((f"ingest {what}", name, [form.format(row["ingestion"][name] / unit) for row in found.values()]))
    for size in ("1M", "10M"):
        memory = [row["memory"].get(size, {}) for row in found.values()]
        for part in ("index", "index and views"):
            cells = [f"{each[part]:.0f} B/block" if part in each else "" for each in memory]
            if any(cells) and (size, part) != ("10M", "index and views"):
                rows.append((f"memory at {size}, {part}", "memory" if (size, part) == ("1M", "index") else "", cells))
    print(f"{'':<42}" + "".join(f"{kind:>17}" for kind in found) + "".join(f"{'x ' + kind:>13}" for kind in shares))
    for label, name, cells in rows:
        versus = [f"{share[name]:.1f}" if name else "" for share in shares.values()]
        print(f"{label:<42}" + "".join(f"{cell:>17}" for cell in cells) + "".join(f"{cell:>13}" for cell in versus))
    if "radixtree" in shares:
        ready = [f"{shares['radixtree'][f'{name}, its JSON ready-made']:.1f}" for name in ("many", "one")]
        print(f"ours from vLLM bytes, RadixTree from JSON made beforehand: x {ready[0]} (400 blocks), x {ready[1]} (1)")
    print(f"\n{'compiled, while 64 pods send events, µs':<42}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>10}")
    words = {"own": "a query", "turn": "turn before it", "due": "from due to answer, clock", "clock": "a query, clock"}
    for way, parts in found["compiled"]["stalls"].items():
        for part, numbers in parts.items():
            print(f"{way + ': ' + words[part]:<42}" + "".join(f"{number:>10.0f}" for number in numbers.values()))
    print(AIMS)


def dynamo_python(folder: Path) -> str:
    """Interpreter of a new venv with ai-dynamo-runtime."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    packages = ("ai-dynamo-runtime", "msgspec")
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-dynamo", action="store_true", help="also RadixTree, from PyPI in a throw-away venv")
    parser.add_argument("--dynamo-python", metavar="PATH", help="an interpreter that has it and msgspec already")
    parser.add_argument("--pure", action="store_true", help="also our Python twin")
    parser.add_argument("--large", action="store_true", help="also memory at 10 M blocks: 1 GB, half a minute each")
    parser.add_argument("--rounds", type=int, default=5, help="of every measurement (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way of queries during ingestion")
    parser.add_argument("--json", action="store_true", help="everything measured, times in µs, rates per second")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(options.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        pythons = {"compiled": sys.executable, "walk": sys.executable}
        if options.pure:
            pythons["pure"] = sys.executable
        if options.with_dynamo or options.dynamo_python:
            pythons["radixtree"] = options.dynamo_python or dynamo_python(Path(folder) / "venv")
        found = run(pythons, options)
    shares = ratios(found)
    if options.json:
        print(json.dumps({"found": found, "ratios": shares, "rounds": options.rounds}))
    else:
        show(found, shares)


if __name__ == "__main__":
    main()
