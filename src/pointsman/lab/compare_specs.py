"""What a comparison is made of, as plain data that travels to other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from pointsman.lab.options import FleetOptions
from pointsman.lab.requests import FixedWorkload, LabRequest, Workload
from pointsman.lab.traces import open_trace
from pointsman.lab.traces.options import Loop
from pointsman.lab.workloads import make_workload


class WorkloadSource(Protocol):
    """Describes a workload; can be pickled."""

    @property
    def label(self) -> str:
        """For tables: what it is, without seed."""

    @property
    def qps(self) -> float | None:
        """Requests per second that were asked for; None: as the workload is."""

    def open(self) -> Workload:
        """Make it.

        Raises:
            ConfigError: if it cannot be made.
        """


class NamedWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """One of :func:`pointsman.lab.workloads.make_workload`'s."""

    name: str
    qps: float | None = None
    seed: int = 1
    scale: float = 1.0

    @property
    def label(self) -> str:
        return self.name

    def open(self) -> Workload:
        return make_workload(self.name, qps=self.qps, seed=self.seed, scale=self.scale)


class TraceWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """A file, as :func:`pointsman.lab.traces.open_trace` reads it."""

    path: Path
    format: str
    speed: float = 1.0
    slice: tuple[float, float] | None = None
    scale_users: int = 1
    seed: int = 1
    limit: int | None = None
    loop: Loop = "auto"
    sort: bool = False
    qps: None = None

    @property
    def label(self) -> str:
        return self.path.name if self.speed == 1 else f"{self.path.name} ×{self.speed:g}"

    def open(self) -> Workload:
        return open_trace(
            self.path,
            self.format,
            speed=self.speed,
            slice=self.slice,
            scale_users=self.scale_users,
            seed=self.seed,
            limit=self.limit,
            loop=self.loop,
            sort=self.sort,
        )


class GivenWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """Requests at hand, for notebooks and tests."""

    name: str
    requests: tuple[LabRequest, ...]
    qps: float | None = None

    @property
    def label(self) -> str:
        return self.name

    def open(self) -> Workload:
        return FixedWorkload(self.name, self.requests)


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One run: a policy (a name of :data:`pointsman.lab.policies.POLICIES`, or a file), a workload, a fleet."""

    policy: str
    workload: WorkloadSource
    options: FleetOptions = msgspec.field(default_factory=FleetOptions)

    @property
    def label(self) -> str:
        """For a progress bar."""
        rate = f" at {self.workload.qps:g} QPS" if self.workload.qps else ""
        return f"{self.policy}: {self.workload.label}{rate}"
