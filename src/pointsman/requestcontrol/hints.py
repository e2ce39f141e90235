"""Hints: what a client's headers ask of the picker, under llm-d's names and their older ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from pointsman.api.request import DEFAULT_FLOW

# canonical name first: it wins
FAIRNESS_ID = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
OBJECTIVE = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
REWRITE = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
SLO_TTFT = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
SLO_TPOT = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")

_ALL = frozenset((*FAIRNESS_ID, *OBJECTIVE, *REWRITE, *SLO_TTFT, *SLO_TPOT))

SYSTEM_OWNED = frozenset((
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
    "x-gateway-destination-endpoint-served",
))  # fmt: skip
"""Headers that only a picker may set on a request: a client could send its prompt, or a sidecar, anywhere with them."""


class Hints(msgspec.Struct, frozen=True):
    """What was asked for. ``malformed`` counts headers that could not be read and are ignored."""

    fairness_id: str = DEFAULT_FLOW
    objective: str = ""
    rewrite: str = ""
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    malformed: int = 0


NO_HINTS = Hints()


def read_hints(headers: Mapping[str, str]) -> Hints:
    """Read them; most requests have none."""
    if _ALL.isdisjoint(headers):
        return NO_HINTS
    ttft, tpot = _first(headers, SLO_TTFT), _first(headers, SLO_TPOT)
    slos = [_milliseconds(text) for text in (ttft, tpot)]
    return Hints(
        fairness_id=_first(headers, FAIRNESS_ID) or DEFAULT_FLOW,
        objective=_first(headers, OBJECTIVE),
        rewrite=_first(headers, REWRITE),
        slo_ttft_ms=slos[0],
        slo_tpot_ms=slos[1],
        malformed=sum(slo is None and text != "" for slo, text in zip(slos, (ttft, tpot), strict=True)),
    )


def owned_headers(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Which of the client's headers must go."""
    return () if SYSTEM_OWNED.isdisjoint(headers) else tuple(sorted(SYSTEM_OWNED & headers.keys()))


def _first(headers: Mapping[str, str], names: tuple[str, str]) -> str:
    for name in names:
        value = headers.get(name, "").strip()
        if value:
            return value
    return ""


def _milliseconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
