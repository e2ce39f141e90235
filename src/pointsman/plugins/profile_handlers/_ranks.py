"""Data-parallel ranks behind one port: the request goes to the pod's primary port and is told its rank in a header."""

from __future__ import annotations

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.api.result import ProfileRunResult, SchedulingResult

RANK_HEADER = "x-data-parallel-host-port"


def to_primary_port(run: ProfileRunResult, port: int) -> ProfileRunResult:
    """The same choice, at the primary port of its pod.

    There are no fallbacks: the header names one rank, and at another pod it would lead back here.
    """
    if not run.targets:
        return run
    chosen = run.targets[0]
    target = Endpoint(chosen.id, chosen.address, port, chosen.slot, chosen.labels, chosen.metrics, chosen.healthy)
    return msgspec.structs.replace(run, targets=(target,))


def rank_header(result: SchedulingResult) -> dict[str, str]:
    """Where the chosen rank listens, as it was before :func:`to_primary_port`."""
    chosen, candidates = result.chosen, result.profiles[result.primary].candidates
    ranks = (scored.endpoint.hostport for scored in candidates if scored.endpoint.id == chosen.id)
    return {RANK_HEADER: next(ranks, chosen.hostport)}
