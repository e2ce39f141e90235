"""What came of a run: one row per request, samples of every pod's load, and figures made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from pointsman.lab.requests import LabRequest


class Row(msgspec.Struct):
    """One request. Times in seconds of simulated time; NaN-free: what did not happen is -1."""

    id: str
    arrival: float
    prompt_tokens: int
    output_tokens: int
    pod: int = -1
    """-1: nowhere."""
    cached_tokens: int = 0
    predicted_tokens: int = -1
    first_token: float = -1.0
    end: float = -1.0
    status: int = 0
    session: str = ""
    warm_up: bool = False

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def ttft_ms(self) -> float:
        """From the client's sending to the first token, milliseconds."""
        return (self.first_token - self.arrival) * 1000

    @property
    def tpot_ms(self) -> float | None:
        """Mean milliseconds per output token after the first; None for a single token."""
        if self.output_tokens < 2:
            return None
        return (self.end - self.first_token) * 1000 / (self.output_tokens - 1)


class LoadSample(msgspec.Struct, frozen=True):
    """Load of every pod at one moment, by the pod's number."""

    at: float
    running: Sequence[int]
    waiting: Sequence[int]
    kv_usage: Sequence[float]


class RunResult(msgspec.Struct):
    """One policy on one workload.

    Attributes:
        policy: its name.
        workload: its name.
        rows: in order of arrival.
        load: samples of the pods.
        wall_s: real seconds the run took.
        duration: simulated seconds from the first arrival to the last end.
        degraded: decisions made with less knowledge, by kind.
        failures: exceptions of plugins.
        busy_s: simulated seconds each pod was working, by number.
    """

    policy: str
    workload: str
    rows: list[Row]
    load: list[LoadSample]
    wall_s: float = 0.0
    duration: float = 0.0
    degraded: Counter[str] = msgspec.field(default_factory=Counter)
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    busy_s: list[float] = []

    def measured(self) -> list[Row]:
        """All but the warm-up."""
        return [row for row in self.rows if not row.warm_up]

    def records(self) -> list[dict[str, object]]:
        """One flat dictionary per request, for data frames: the row's fields and ``policy``, ``ttft_ms``, ``tpot_ms``.

        Times that are not there (nothing came, or a single token) are None.
        """
        return [
            {
                "policy": self.policy,
                "workload": self.workload,
                **{name: getattr(row, name) for name in Row.__struct_fields__},
                "ttft_ms": row.ttft_ms if row.first_token >= 0 else None,
                "tpot_ms": row.tpot_ms if row.ok else None,
            }
            for row in self.rows
        ]

    def summary(self) -> dict[str, object]:
        """Figures for tables and scripts; times in milliseconds."""
        rows = self.measured()
        done = [row for row in rows if row.ok]
        ttft = [row.ttft_ms for row in done]
        tpot = [value for row in done if (value := row.tpot_ms) is not None]
        prompt = sum(row.prompt_tokens for row in done)
        began = min((row.arrival for row in rows), default=0.0)
        ended = max((row.end for row in done), default=began)
        return {
            "requests": len(rows),
            "ttft_ms": distribution(ttft),
            "tpot_ms": distribution(tpot),
            "hit_rate": sum(row.cached_tokens for row in done) / prompt if prompt else 0.0,
            "success": len(done) / len(rows) if rows else 0.0,
            "output_tokens_per_s": sum(row.output_tokens for row in done) / (ended - began) if ended > began else 0.0,
            "wall_s": round(self.wall_s, 3),
        }


def distribution(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and percentiles; None without values."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99"))
    found: dict[str, float | None] = {"mean": sum(ordered) / len(ordered)}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        found[name] = percentile(ordered, share)
    return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest ranks, as numpy's default. ``ordered`` is sorted and not empty."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def row_of(request: LabRequest) -> Row:
    """A row before anything has happened."""
    return Row(
        request.id,
        request.arrival,
        len(request.tokens),
        request.max_tokens,
        session=request.session,
        warm_up=request.warm_up,
    )
