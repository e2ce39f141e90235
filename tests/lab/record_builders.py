"""Records of simulated traffic."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pointsman.clock import ManualClock
from pointsman.lab.options import FleetOptions
from pointsman.lab.requests import Workload
from pointsman.lab.results import RunResult
from pointsman.lab.runner import Run
from pointsman.observability.record_files import RecordFiles
from pointsman.observability.record_sink import RecordSink

OBSERVED = """\
plugins: [{type: approx-prefix-cache-producer}, {type: reserved-work-cost}, {type: uncached-prefill-cost}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: reserved-work-cost}, {pluginRef: uncached-prefill-cost}]
observeShare: 1.0
"""


def record(folder: Path, workload: Workload, fleet: FleetOptions, *, max_bytes: int = 10_000_000) -> RunResult:
    """Simulate a picker that keeps records in ``folder``."""
    policy = folder / "policy.yaml"
    policy.write_text(OBSERVED)
    run = Run(str(policy), workload, fleet)
    sink = RecordSink(partial(RecordFiles, folder / "records.jsonl", max_bytes), ManualClock(), key=b"k" * 32)
    sink.use("policy.yaml", run.director.plan.effective())
    run.observer.ended = sink.add  # type: ignore[method-assign]
    result = run.run()
    sink.start()
    sink.stop()
    return result
