"""Time of one whole decision: parse, producers, filters, scorers, picker, reserve, record. No network.

Prints microseconds per request and the ratio to the round-robin preset in the same run. A 24 KB chat whose prefix is
known to one pod, 8 and 64 pods, best of 5 repeats.
"""

from __future__ import annotations

import argparse
from random import Random
from time import perf_counter
from typing import cast

import msgspec

from pointsman.api.request import RequestHead
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.framework.plugin import Handle
from pointsman.latency.model import LATENCY_PROFILES
from pointsman.observability.metrics import Metrics
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.exchange import Exchange
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.planning import build_plan

PRESETS = ("round-robin", "least-request", "llm-d", "default", "brief")
HEAD = RequestHead({":path": "/v1/chat/completions", ":method": "POST"})


def make_director(preset: str, pods: int) -> Director:
    """A picker's inside with ``pods`` idle pods."""
    clock, rng = SystemClock(), Random(1)
    ledger, metrics, datastore = Ledger(clock), Metrics(), Datastore(clock)
    cost = LATENCY_PROFILES["qwen3-32b-2xh100"]
    plan = build_plan(preset, Handle(clock=clock, rng=rng, inflight=ledger, cost=cost), metrics)
    datastore.set_endpoints([EndpointSpec(name=f"pod-{i}", address=f"10.0.0.{i + 1}", port=8000) for i in range(pods)])
    return Director(plan, datastore, ledger, cost, clock, rng, metrics)


def bodies(count: int) -> list[bytes]:
    """Chats of 24 KB with one long system prompt and a question each."""
    system = "You are a careful assistant. " * 800
    return [
        msgspec.json.encode(
            {
                "model": "m",
                "messages": [{"role": "system", "content": system}, {"role": "user", "content": f"question {i} " * 40}],
            }
        )
        for i in range(count)
    ]


def measure(preset: str, pods: int, chats: list[bytes], repeats: int) -> float:
    """Microseconds per decision, the best of ``repeats``."""
    director = make_director(preset, pods)
    best = float("inf")
    for _ in range(repeats):
        start = perf_counter()
        for body in chats:
            cast("Exchange", director.decide(HEAD, body, received=start)).end("complete")
        best = min(best, perf_counter() - start)
    return best / len(chats) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    chats = bodies(options.requests)
    print(f"{'preset':<15} {'8 pods':>10} {'ratio':>7} {'64 pods':>10} {'ratio':>7}")
    base: dict[int, float] = {}
    for preset in PRESETS:
        cells = []
        for pods in (8, 64):
            micros = measure(preset, pods, chats, options.repeats)
            base.setdefault(pods, micros)
            cells.append(f"{micros:>7.0f} µs {micros / base[pods]:>6.1f}x")
        print(f"{preset:<15} {'  '.join(cells)}")


if __name__ == "__main__":
    main()
