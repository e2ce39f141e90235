"""From a scheduler's result to the record that is kept of it."""

from __future__ import annotations

import math
from time import perf_counter

from pointsman.api.record import DecisionRecord
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.clock import Clock


def decision_record(
    request: InferenceRequest, result: SchedulingResult, received: float, cached: int | None, clock: Clock
) -> DecisionRecord:
    """The record of a decision just made.

    Args:
        request: as decided.
        result: by whom.
        received: ``perf_counter()`` at the request's last byte, not finite when nobody looked.
        cached: prompt tokens that the chosen endpoint is believed to hold, None when nobody knows.
        clock: the picker's.
    """
    run = result.profiles[result.primary]
    chosen = result.chosen
    return DecisionRecord(
        request_id=request.id,
        time=clock.wall(),
        model=request.model,
        prompt_tokens=request.prompt_tokens,
        profile=result.primary,
        unit=run.unit,
        chosen=chosen.id,
        hostport=chosen.hostport,
        destination=",".join(endpoint.hostport for endpoint in result.targets),
        fallback=run.fallback,
        scheduling_ms=max(0.0, (perf_counter() - received) * 1000) if math.isfinite(received) else 0.0,
        predicted_cached_tokens=cached,
        clock=clock.now(),
        result=result,
    )
