"""Workloads made of workloads: a part of one, or one that comes faster. Descriptions, so that they travel."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pointsman.lab.compare_specs import WorkloadSource
from pointsman.lab.requests import LabRequest, Workload


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that arrive from ``begin`` to before ``end``; those from ``warm`` on come too, but count for nothing."""

    whole: WorkloadSource
    begin: float
    end: float
    warm: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.whole.label} {self.begin:.0f}-{self.end:.0f} s"

    @property
    def qps(self) -> float | None:
        return self.whole.qps

    def open(self) -> Workload:
        return _PartOf(self.whole.open(), self)


class Faster(msgspec.Struct, frozen=True, kw_only=True):
    """The same requests, ``speed`` times as fast; what waits for an answer thinks as long as before."""

    whole: WorkloadSource
    speed: float

    @property
    def label(self) -> str:
        return f"{self.whole.label} ×{self.speed:g}"

    @property
    def qps(self) -> float | None:
        return self.whole.qps * self.speed if self.whole.qps else None

    def open(self) -> Workload:
        return _FasterThan(self.whole.open(), self)


class _PartOf:
    def __init__(self, whole: Workload, part: Part) -> None:
        self.name = part.label
        self._whole, self._part = whole, part

    def requests(self) -> Iterator[LabRequest]:
        part = self._part
        for request in self._whole.requests():
            if request.arrival >= part.end:
                return
            if request.arrival >= part.warm:
                yield self._placed(request)

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        shift = self._part.warm
        before = msgspec.structs.replace(done, arrival=done.arrival + shift)
        following = self._whole.follow(before, now + shift)
        if following is None or following.arrival >= self._part.end:
            return None
        return self._placed(following)

    def _placed(self, request: LabRequest) -> LabRequest:
        warm_up = request.warm_up or request.arrival < self._part.begin
        return msgspec.structs.replace(request, arrival=request.arrival - self._part.warm, warm_up=warm_up)


class _FasterThan:
    def __init__(self, whole: Workload, faster: Faster) -> None:
        self.name = faster.label
        self._whole, self._speed = whole, faster.speed

    def requests(self) -> Iterator[LabRequest]:
        for request in self._whole.requests():
            yield msgspec.structs.replace(request, arrival=request.arrival / self._speed)

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        return self._whole.follow(done, now)


def span(source: WorkloadSource) -> tuple[float, float]:
    """When the first request comes that counts, and when the last one that waits for no answer, seconds.

    Raises:
        ConfigError: if the workload cannot be opened or read.
    """
    first, last = None, 0.0
    for request in source.open().requests():
        last = request.arrival
        if first is None and not request.warm_up:
            first = last
    return last if first is None else first, last
