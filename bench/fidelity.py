"""The engine model against silicon: Qwen3-32B on 2xH100 (TP=2, BF16, vLLM 0.12), closed loop, 1,024 output tokens.

The measured rows are AIConfigurator's ``silicon_sample.csv`` (inputs of 1,024 and 4,096 tokens, 8 to 128 clients).
They do not say how the clients started nor how many requests each sent, and the time to the first token depends on
both: clients that start at once and answer in step keep colliding. So one start is assumed for all rows, and stated:

* ``staggered``: starts spread evenly over 25 s, four requests each.
* ``lock-step``: all at once, ten requests each, all answers of one length.
* ``spread`` (default): all at once, five requests each, answers of 1,024 tokens +-10 % (normal), so that the clients
  drift apart. The number of requests is the one figure chosen by looking at the rows; nothing is fitted per row.

Every request of a run counts. Errors are relative; means are of their absolute values.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from array import array

import msgspec

from pointsman.sim.engine import Engine
from pointsman.sim.profiles import EngineProfile, find_profile
from pointsman.sim.sequence import SimRequest

OUTPUT = 1024
# input tokens, clients, TTFT ms, TPOT ms
MEASURED = (
    *((1024, 8, 154, 15.9), (1024, 16, 187, 17.4), (1024, 32, 237, 20.1), (1024, 64, 381, 26.1)),
    *((1024, 128, 652, 37.8), (4096, 8, 749, 17.9), (4096, 16, 840, 21.9), (4096, 32, 979, 29.3)),
    *((4096, 64, 4376, 52.6), (4096, 128, 58753, 55.2)),
)


class Start(msgspec.Struct, frozen=True):
    """How the clients go about it."""

    over: float
    """Seconds over which they start."""
    rounds: int
    """Requests of each."""
    spread: float
    """Standard deviation of the answers' lengths, as a share."""


STARTS = {"staggered": Start(25.0, 4, 0.0), "lock-step": Start(0.0, 10, 0.0), "spread": Start(0.0, 5, 0.1)}


class ClosedLoop:
    """Clients that each send anew when they are answered."""

    def __init__(self, profile: EngineProfile, inputs: int, clients: int, start: Start, seed: int = 1) -> None:
        self.engine = Engine(profile)
        self.rng = random.Random(seed)
        self.inputs, self.start = inputs, start
        self.left = clients * start.rounds
        self.due = [start.over * number / clients for number in range(clients)]
        self.sent: list[tuple[float, int]] = []
        self.first: dict[int, float] = {}
        self.ttft: list[float] = []
        self.tpot: list[float] = []

    def send(self, now: float) -> None:
        """One request; every prompt is new."""
        number = len(self.sent)
        outputs = max(2, round(self.rng.gauss(OUTPUT, self.start.spread * OUTPUT)))
        self.sent.append((now, outputs))
        self.left -= 1
        prompt = array("I", [number]) * self.inputs
        self.engine.submit(SimRequest(str(number), prompt, outputs, interval=1 << 40), now)

    def next_due(self) -> float:
        return self.due[0] if self.due and self.left else float("inf")

    def run(self) -> tuple[float, float]:
        """Mean milliseconds to the first token and per output token."""
        now, end = 0.0, float("inf")
        while True:
            if self.next_due() <= end < float("inf"):
                now = heapq.heappop(self.due)
                end = max(now, self.engine.cut(now))
                self.send(now)
                continue
            if end < float("inf"):
                now = end
                self.finish(now)
            elif self.next_due() < float("inf"):
                now = max(now, heapq.heappop(self.due))
                self.send(now)
            else:
                break
            length = self.engine.begin(now)
            end = float("inf") if length is None else self.engine.stretch(now + length)
        return 1e3 * sum(self.ttft) / len(self.ttft), 1e3 * sum(self.tpot) / len(self.tpot)

    def finish(self, now: float) -> None:
        """A step is over."""
        for emission in self.engine.finish(now).emissions:
            number = int(emission.request_id)
            sent, outputs = self.sent[number]
            self.first.setdefault(number, now)
            if emission.finished:
                self.ttft.append(self.first[number] - sent)
                self.tpot.append((now - self.first[number]) / (outputs - 1))
                heapq.heappush(self.due, now)


def compare(start: Start) -> list[dict[str, float]]:
    """Every measured row and the model's."""
    profile, rows = find_profile("qwen3-32b-2xh100"), []
    for inputs, clients, ttft, tpot in MEASURED:
        loop = ClosedLoop(profile, inputs, clients, start)
        ours = loop.run()
        rows.append(
            {
                "input_tokens": inputs,
                "clients": clients,
                "ttft_measured_ms": ttft,
                "ttft_ms": round(ours[0], 1),
                "ttft_error": round(ours[0] / ttft - 1, 4),
                "tpot_measured_ms": tpot,
                "tpot_ms": round(ours[1], 2),
                "tpot_error": round(ours[1] / tpot - 1, 4),
                "preemptions": loop.engine.stats.preemptions,
            }
        )
    return rows


def mean_error(rows: list[dict[str, float]], what: str) -> float:
    """Mean of absolute errors, percent."""
    return round(100 * sum(abs(row[f"{what}_error"]) for row in rows) / len(rows), 1)


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean errors over groups of rows, percent."""
    groups = {
        "all": rows,
        "1024 in": [row for row in rows if row["input_tokens"] == 1024],
        "4096 in": [row for row in rows if row["input_tokens"] == 4096],
        "below KV capacity": [row for row in rows if row["input_tokens"] == 1024 or row["clients"] < 64],
    }
    return {name: {what: mean_error(some, what) for what in ("ttft", "tpot")} for name, some in groups.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", choices=[*STARTS, "all"], default="all", help="how the clients start")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    names = list(STARTS) if options.start == "all" else [options.start]
    found = {name: compare(STARTS[name]) for name in names}
    if options.json:
        sys.stdout.write(json.dumps({n: {"rows": rows, "error": summary(rows)} for n, rows in found.items()}) + "\n")
        return
    for name, rows in found.items():
        sys.stdout.write(f"\n{name}: {STARTS[name]}\n  in   clients  TTFT measured     model  error   TPOT measured")
        sys.stdout.write("  model  error  preempted\n")
        for row in rows:
            sys.stdout.write(
                f"{row['input_tokens']:6}{row['clients']:8}{row['ttft_measured_ms']:13}{row['ttft_ms']:12}"
                f"{row['ttft_error']:+8.1%}{row['tpot_measured_ms']:13}{row['tpot_ms']:10}{row['tpot_error']:+8.1%}"
                f"{row['preemptions']:9}\n"
            )
        for group, errors in summary(rows).items():
            sys.stdout.write(f"  mean error, {group}: TTFT {errors['ttft']} %, TPOT {errors['tpot']} %\n")


if __name__ == "__main__":
    main()
