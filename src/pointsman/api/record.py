"""Decision records: everything that can be asked later about one decision.

A record keeps the scheduler's own immutable result and is turned into candidates, terms and margins only when somebody
asks: at 64 endpoints the view costs about 60 µs, keeping the reference costs nothing.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from pointsman.api.result import ProfileRunResult, SchedulingResult


class CandidateRecord(msgspec.Struct, frozen=True):
    """One endpoint in a decision: its total and the terms that sum to it."""

    endpoint: str
    hostport: str
    score: float
    terms: dict[str, float]
    metrics_age_ms: float | None = None
    """Age of the scraped gauges at the decision; None when never scraped."""


class ShadowRecord(msgspec.Struct, frozen=True, gc=False):
    """What a second configuration would have done with the same request.

    Attributes:
        chosen: endpoint that it would have chosen.
        hostport: of that endpoint.
        gain: by how much it rates its choice above the one made, in ``unit``; milliseconds it expects to save, or
            score; 0 when both are the same, or when it does not rate the one made.
        unit: ``"ms"`` or ``"score"``.
        reason: why it differs: the scorer that says so loudest, ``tie``, ``filtered`` (a filter of its own drops the
            one made) or a fallback's name; ``""`` when it does not.
    """

    chosen: str
    hostport: str
    gain: float
    unit: str
    reason: str = ""


class DecisionRecord(msgspec.Struct, kw_only=True, gc=False):
    """Why a request went where it went; the outcome is filled in when the request ends.

    ``unit`` says what the terms are: ``"score"`` (higher is better) or ``"ms"`` (negated expected milliseconds).
    """

    request_id: str
    time: float
    """Wall clock, seconds since 1970."""
    model: str
    prompt_tokens: int
    profile: str
    unit: str
    chosen: str
    hostport: str
    destination: str
    fallback: str | None = None
    scheduling_ms: float = 0.0
    """From the last body byte to the decision, in real milliseconds."""
    predicted_cached_tokens: int | None = None
    status: int | None = None
    cause: str | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    served: str | None = None
    """Who really answered (``ip:port``) when the proxy told."""
    clock: float = 0.0
    """The picker's clock at the decision, seconds."""
    result: SchedulingResult | None = None
    """What the scheduler found; left out of :meth:`view`, which shows it in words."""
    shadow: ShadowRecord | None = None
    """What the configuration's ``shadow`` would have done; None when none ran."""

    def candidates(self) -> list[CandidateRecord]:
        """Every endpoint that passed the filters, with its terms, best first."""
        return [] if self.result is None else self._rows(self.result.profiles[self.result.primary])

    def stages(self) -> dict[str, Any]:
        """Stages done elsewhere, such as ``prefill``: by which profile, where, and who else could have done it."""
        if self.result is None:
            return {}
        runs = {stage: self.result.profiles[name] for stage, name in self.result.stages.items()}
        return {
            stage: {
                "profile": run.profile,
                "chosen": run.targets[0].id,
                "hostport": run.targets[0].hostport,
                "candidates": [msgspec.to_builtins(row) for row in self._rows(run)],
            }
            for stage, run in runs.items()
        }

    def _rows(self, run: ProfileRunResult) -> list[CandidateRecord]:
        rows = [
            CandidateRecord(
                endpoint=scored.endpoint.id,
                hostport=scored.endpoint.hostport,
                score=scored.score,
                terms={term.plugin: term.values[i] for term in run.terms},
                metrics_age_ms=_age_ms(scored.endpoint.metrics.age(self.clock)),
            )
            for i, scored in enumerate(run.candidates)
        ]
        return sorted(rows, key=lambda row: -row.score)

    def dropped(self) -> dict[str, list[str]]:
        """Filter name to the endpoints it took out."""
        if self.result is None:
            return {}
        return {drop.plugin: list(drop.endpoints) for drop in self.result.profiles[self.result.primary].drops}

    def ties(self) -> int:
        """How many candidates shared the best score."""
        scores = [row.score for row in self.candidates()]
        return scores.count(scores[0]) if scores else 0

    def margin(self) -> float | None:
        """Best score minus the second best; None with fewer than two candidates."""
        rows = self.candidates()
        return rows[0].score - rows[1].score if len(rows) > 1 else None

    def view(self) -> dict[str, Any]:
        """The record as plain data for JSON: no prompt text, no headers."""
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__ if name != "result"}
        data |= {"ties": self.ties(), "margin": self.margin(), "dropped": self.dropped()}
        data["stages"] = self.stages()
        data["shadow"] = msgspec.to_builtins(self.shadow)
        data["candidates"] = [msgspec.to_builtins(row) for row in self.candidates()]
        return data


def _age_ms(seconds: float) -> float | None:
    return round(seconds * 1000, 1) if math.isfinite(seconds) else None
