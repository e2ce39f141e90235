"""Where the time of a run's requests went, and what each pod did."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pointsman.lab.options import FleetOptions
from pointsman.lab.oracle_ttft import alone_ms, least_prefill_ms
from pointsman.lab.results import Row, RunResult, percentile


class TimeSpent(msgspec.Struct, frozen=True):
    """Mean milliseconds of an answered request; they sum to its mean duration.

    Attributes:
        network: to the engine and back.
        prefill: computing its own uncached prompt, as on an idle pod.
        waiting: everything else before the first token: the queue, and steps shared with others.
        decode: its tokens after the first, as if alone on the pod.
        sharing: how much longer these took because others decode and prefill in the same steps.
    """

    network: float
    prefill: float
    waiting: float
    decode: float
    sharing: float


class PodShare(msgspec.Struct, frozen=True):
    """One pod: requests answered, their hit rate and P95 TTFT, share of the time it worked, longest queue seen."""

    pod: int
    requests: int
    hit_rate: float
    ttft_p95_ms: float | None
    busy: float
    most_waiting: int


def time_spent(result: RunResult, options: FleetOptions) -> TimeSpent | None:
    """The mean over all answered requests; None when there are none. Pods are taken at the profile's speed."""
    rows = [row for row in result.measured() if row.ok]
    if not rows:
        return None
    profile = options.profile
    network = 2e3 * options.network
    prefill = waiting = decode = sharing = 0.0
    for row in rows:
        cost = least_prefill_ms(profile, row.prompt_tokens - row.cached_tokens, row.cached_tokens)
        own = min(alone_ms(profile, cost), max(0.0, row.ttft_ms - network))
        prefill += own
        waiting += row.ttft_ms - network - own
        after = row.output_tokens - 1
        context = row.prompt_tokens + row.output_tokens // 2
        lone = min(after * profile.step_ms(1, context, 0.0), (row.end - row.first_token) * 1e3)
        decode += lone
        sharing += (row.end - row.first_token) * 1e3 - lone
    count = len(rows)
    return TimeSpent(network, prefill / count, waiting / count, decode / count, sharing / count)


def pod_shares(result: RunResult) -> list[PodShare]:
    """Every pod that there was, in order."""
    by_pod: dict[int, list[Row]] = {}
    for row in result.measured():
        if row.ok:
            by_pod.setdefault(row.pod, []).append(row)
    return [_share(result, pod, by_pod.get(pod, [])) for pod in range(len(result.busy_s))]


def _share(result: RunResult, pod: int, rows: Sequence[Row]) -> PodShare:
    prompt = sum(row.prompt_tokens for row in rows)
    times = sorted(row.ttft_ms for row in rows)
    return PodShare(
        pod=pod,
        requests=len(rows),
        hit_rate=sum(row.cached_tokens for row in rows) / prompt if prompt else 0.0,
        ttft_p95_ms=percentile(times, 0.95) if times else None,
        busy=result.busy_s[pod] / result.duration if result.duration else 0.0,
        most_waiting=max((sample.waiting[pod] for sample in result.load if pod < len(sample.waiting)), default=0),
    )
