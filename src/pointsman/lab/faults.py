"""Things that happen to a simulated fleet while it works."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from pointsman.clock import ManualClock
from pointsman.lab.fleet import LabFleet, LabPod
from pointsman.lab.options import Fault, FleetOptions


class Running(Protocol):
    """What a fault needs of the run."""

    clock: ManualClock
    fleet: LabFleet
    options: FleetOptions

    def plan(self, at: float, action: Callable[[], None]) -> None: ...

    def abandon(self, pod: LabPod) -> None: ...

    def catch_up(self) -> None: ...

    def cut(self, pod: LabPod) -> None: ...

    def watch(self, pod: LabPod) -> None: ...


def plan_faults(run: Running) -> None:
    """Put every fault of the run's options on its calendar."""
    for fault in run.options.faults:
        run.plan(fault.at, partial(_happen, run, fault))


def _happen(run: Running, fault: Fault) -> None:
    now = run.clock.now()
    run.catch_up()
    if fault.kind == "add":
        run.plan(now + fault.ready, partial(_join, run))
        return
    for pod in [pod for pod in run.fleet.pods.values() if fault.pod in {None, pod.number} and pod.alive]:
        if fault.kind == "kill":
            pod.alive = False
            run.abandon(pod)
            run.plan(now + fault.detect, run.fleet.publish)
        elif fault.kind == "slow":
            run.cut(pod)
            pod.engine.pace *= fault.factor
        elif fault.kind == "freeze-metrics":
            pod.metrics_until = now + fault.seconds
        else:
            pod.events_until = now + fault.seconds


def _join(run: Running) -> None:
    """A new pod has started."""
    pod = run.fleet.make_pod()
    run.fleet.publish()
    run.watch(pod)
