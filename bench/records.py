"""Cost of records for replay and of a shadow on the request path, and of a record in its own thread.

Prints microseconds: a whole decision and its end (24 KB chats, 8 and 64 pods, default preset) without and with records,
what :meth:`RecordSink.add` takes alone, and what the thread needs to hash, encode and write one record. The aim is at
most 20 µs on the request path. A shadow is run after the answer: what it takes is time of the same thread all the same.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from random import Random
from time import perf_counter
from typing import cast

import msgspec

from pointsman.api.request import RequestHead
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.framework.plugin import Handle
from pointsman.latency.model import LATENCY_PROFILES
from pointsman.observability import record_sink
from pointsman.observability.metrics import Metrics
from pointsman.observability.record_files import RecordFiles
from pointsman.observability.record_sink import RecordSink
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.exchange import Exchange
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.planning import build_plan

HEAD = RequestHead({":path": "/v1/chat/completions", ":method": "POST"})


def make_director(policy: str, pods: int) -> tuple[Director, Metrics]:
    clock, rng = SystemClock(), Random(1)
    ledger, metrics, datastore = Ledger(clock), Metrics(), Datastore(clock)
    cost = LATENCY_PROFILES["qwen3-32b-2xh100"]
    plan = build_plan(policy, Handle(clock=clock, rng=rng, inflight=ledger, cost=cost), metrics)
    datastore.set_endpoints([EndpointSpec(name=f"pod-{i}", address=f"10.0.0.{i + 1}", port=8000) for i in range(pods)])
    return Director(plan, datastore, ledger, cost, clock, rng, metrics), metrics


def bodies(count: int) -> list[bytes]:
    system = "You are a careful assistant. " * 800
    chats = [
        [{"role": "system", "content": system}, {"role": "user", "content": f"question {i} " * 40}]
        for i in range(count)
    ]
    return [msgspec.json.encode({"model": "m", "messages": chat}) for chat in chats]


def decide_all(director: Director, chats: list[bytes]) -> float:
    start = perf_counter()
    for body in chats:
        cast("Exchange", director.decide(HEAD, body, received=start)).end("complete")
    return (perf_counter() - start) / len(chats) * 1e6


def make_sink(folder: str) -> RecordSink:
    return RecordSink(partial(RecordFiles, Path(folder) / "records.jsonl", 512_000_000), SystemClock())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    chats = bodies(options.requests)
    record_sink.MAX_WAITING = 10**9
    record_sink.MAX_WAITING_BYTES = 10**12
    with tempfile.TemporaryDirectory() as folder:
        shadowed = Path(folder) / "shadowed.yaml"
        shadowed.write_text(_default_with("shadow: brief"))
        same = Path(folder) / "same.yaml"
        same.write_text(_default_with("shadow: preset:default"))
        print(f"{'one request, µs':<44} {'8 pods':>8} {'64 pods':>8}")
        for name, policy, records in (
            ("default", "default", False),
            ("default, records put on the queue", "default", True),
            ("default, shadow brief (after the answer)", str(shadowed), False),
            ("default, shadow default (after the answer)", str(same), False),
        ):
            cells = []
            for pods in (8, 64):
                director, metrics = make_director(policy, pods)
                sink = make_sink(folder)
                if records:
                    metrics.sink = sink.add
                cells.append(min(decide_all(director, chats) for _ in range(options.repeats)))
            print(f"{name:<44} {cells[0]:>8.1f} {cells[1]:>8.1f}")
        _in_thread(folder, chats)


def _default_with(line: str) -> str:
    text = (Path(record_sink.__file__).parents[1] / "presets" / "default.yaml").read_text()
    return f"{text}\n{line}\n"


def _in_thread(folder: str, chats: list[bytes]) -> None:
    director, metrics = make_director("default", 64)
    kept: list[tuple[object, object]] = []
    metrics.sink = lambda outcome, record: kept.append((outcome, record))
    decide_all(director, chats)
    sink = make_sink(folder)
    start = perf_counter()
    for outcome, record in kept:
        sink.add(outcome, record)  # type: ignore[arg-type]
    added = perf_counter()
    sink._drain()  # noqa: SLF001 - the thread's work, timed here
    ended = perf_counter()
    size = (Path(folder) / "records.jsonl").stat().st_size
    print(f"\n{'put on the queue':<44} {(added - start) / len(kept) * 1e6:>8.2f} µs a record, on the event loop")
    print(f"{'hash, encode, write':<44} {(ended - added) / len(kept) * 1e6:>8.1f} µs a record, in its thread")
    print(f"{'size':<44} {size / len(kept):>8.0f} bytes a record (6,000 tokens)")


if __name__ == "__main__":
    main()
