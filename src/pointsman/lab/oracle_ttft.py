"""A lower bound on the time to first token: queueing with perfect knowledge of costs.

Two things no policy can beat, given what each prompt leaves to compute when nothing is ever evicted:

* **Alone.** A request's first token comes no sooner than its own prefill takes on an idle pod, the fastest there is.
  This holds for every request, so it bounds the mean and every percentile.
* **Pooled.** Let one server do all prefill work, as fast as all pods together, always working on what has least left
  (SRPT). Whatever pods do in parallel this server can do by sharing its time, and SRPT has the least mean waiting time
  of all orders [Schrage 1968], so the mean over all requests is no lower in any fleet. It is no bound for a single one.

What a prompt leaves to compute is counted in order of arrival with a cache without limit: a pod serves first come,
first served, so a prompt finds only what came before it, and no cache holds more than everything.

Costs are the engine profile's, each at its least: a chunk in a step shared with decodes costs ``interference`` of its
own time; the fixed part of a step is shared by all requests of the step, so the pooled server does not pay it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush, heapreplace

import msgspec

from pointsman.lab.options import FleetOptions
from pointsman.lab.results import distribution
from pointsman.sim.profiles import EngineProfile


class TtftBound(msgspec.Struct, frozen=True):
    """What no policy can be under, milliseconds.

    Attributes:
        mean_ms: of the mean over all requests: the larger of the mean of ``alone_ms`` and of ``pooled_ms``.
        alone_ms: mean and percentiles of requests that never wait.
        pooled_ms: mean when all pods work as one, shortest first.
    """

    mean_ms: float
    alone_ms: dict[str, float | None]
    pooled_ms: float


class PrefillJob(msgspec.Struct, frozen=True):
    """A prompt of ``cached`` + ``new`` tokens that arrives at ``arrival``, seconds."""

    arrival: float
    new: int
    cached: int


def ttft_bound(jobs: Sequence[PrefillJob], options: FleetOptions) -> TtftBound | None:
    """The bound for a sequence of requests on a fleet; None without requests.

    Args:
        jobs: in order of arrival.
        options: profile, number and speed of pods (those that a fault adds count from the start), network.
    """
    if not jobs:
        return None
    profile = options.profile
    speeds = _speeds(options)
    fastest, together = max(speeds), sum(speeds)
    network = 2e3 * options.network
    costs = [least_prefill_ms(profile, job.new, job.cached) for job in jobs]
    alone = distribution([network + alone_ms(profile, cost) / fastest for cost in costs])
    share = min(1.0, profile.interference)
    flow = srpt_mean(((job.arrival, cost * share / 1e3) for job, cost in zip(jobs, costs, strict=True)), together)
    pooled = network + 1e3 * flow
    return TtftBound(max(alone["mean"] or 0.0, pooled), alone, pooled)


def least_prefill_ms(profile: EngineProfile, new: int, cached: int) -> float:
    """Least cost of ``new`` tokens behind ``cached`` ones, in whatever chunks, milliseconds without the fixed part."""
    pair = min(profile.prefill_quadratic, profile.prefill_cached / 2)
    return new * (profile.prefill_per_token + pair * new + profile.prefill_cached * cached)


def alone_ms(profile: EngineProfile, prefill: float) -> float:
    """Least length of the steps that compute a prompt of that cost: by themselves, or shared with one decode."""
    shared = profile.decode_base + profile.decode_per_request + profile.interference * prefill
    return max(profile.step_floor, min(profile.prefill_fixed + prefill, shared))


def srpt_mean(jobs: Iterable[tuple[float, float]], speed: float) -> float:
    """Mean time from arrival to completion on one server that always serves what has least work left.

    Args:
        jobs: arrival (seconds, in order) and work (seconds at speed 1); at least one.
        speed: of the server.
    """
    left: list[float] = []
    now = flow = 0.0
    count = 0
    for arrival, work in jobs:
        while left and now < arrival:
            needed = left[0] / speed
            if now + needed > arrival:
                heapreplace(left, left[0] - (arrival - now) * speed)
                break
            now += needed
            flow += now
            heappop(left)
        now = arrival
        flow -= arrival
        count += 1
        heappush(left, work)
    while left:
        now += heappop(left) / speed
        flow += now
    return flow / count


def _speeds(options: FleetOptions) -> list[float]:
    """How fast each pod is at its best: 1 as the profile says, 2 twice as fast."""
    added = sum(fault.kind == "add" for fault in options.faults)
    boost = max([1.0, *(1 / fault.factor for fault in options.faults if fault.kind == "slow")])
    return [boost / options.speed(pod) for pod in range(max(1, options.pods) + added)]
