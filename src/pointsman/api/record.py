"""Decision records: everything that can be asked later about one decision."""

from __future__ import annotations

import msgspec


class CandidateRecord(msgspec.Struct, frozen=True):
    """One endpoint in a decision: its total and the terms that sum to it."""

    endpoint: str
    hostport: str
    score: float
    terms: dict[str, float]
    metrics_age_ms: float | None = None
    """Age of the scraped gauges at the decision; None when never scraped."""


class DecisionRecord(msgspec.Struct, kw_only=True):
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
    candidates: list[CandidateRecord] = []
    dropped: dict[str, list[str]] = {}
    """Filter name to the endpoints it took out."""
    ties: int = 0
    """How many candidates shared the best score."""
    margin: float = 0.0
    """Best score minus the best score of another endpoint."""
    scheduling_ms: float = 0.0
    """From the last body byte to the decision, in real milliseconds."""
    predicted_cached_tokens: int | None = None
    status: int | None = None
    cause: str | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
