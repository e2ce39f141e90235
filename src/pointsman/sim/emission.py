"""What an engine tells about its requests."""

from __future__ import annotations

import msgspec


class Emission(msgspec.Struct, frozen=True):
    """News of one request: it has ``outputs`` tokens by now; ``finished`` says why it ended, if it did."""

    request_id: str
    outputs: int
    cached: int
    """Prompt tokens that were found in the prefix cache."""
    finished: str | None = None


class StepResult(msgspec.Struct, frozen=True):
    """What one step brought."""

    emissions: list[Emission]
    tokens: int
    """Output tokens produced, reported or not."""
