"""Calibration from metrics pages alone: what live traffic says of a profile that is known already.

Two pages some time apart give means: of a decode step, of a prefill, of their loads. That cannot tell seven
coefficients apart, so a base profile's prefill and decode terms are each scaled to meet the means.
"""

from __future__ import annotations

import re

import msgspec

from pointsman.datalayer.metrics_page import parse_page
from pointsman.lab.calibrate_fit import CalibrationError
from pointsman.sim.profiles import EngineProfile

_LEAST = 20
"""Observations between the two pages, of each kind."""
_ITL, _PREFILL = "inter_token_latency_seconds", "request_prefill_time_seconds"
_COMPUTED = "request_prefill_kv_computed_tokens"


class Scales(msgspec.Struct, frozen=True):
    """How the base profile compares with what was seen: 1.1 is a tenth slower.

    Attributes:
        decode: of the decode terms.
        prefill: of the prefill terms; None when too few prompts were seen.
        step_ms: mean time between tokens.
        prefill_ms: mean prefill.
        requests: mean running requests, of the two pages.
        context: mean tokens of context of all of them.
    """

    decode: float
    prefill: float | None
    step_ms: float
    prefill_ms: float | None
    requests: float
    context: float


def scales(before: str, after: str, base: EngineProfile) -> Scales:
    """Compare the growth between two pages with the base profile.

    Raises:
        CalibrationError: if a page is none of an engine, the engine started again between, or too little happened.
    """
    pages = [parse_page(page) for page in (before, after)]
    if any(page is None for page in pages):
        raise CalibrationError("that is no metrics page of an engine")
    metrics = [page.metrics(0.0) for page in pages if page is not None]
    tokens, seconds = _growth(before, after, _ITL)
    if tokens < _LEAST:
        raise CalibrationError(
            f"{tokens:.0f} tokens between the two pages are too few: take pages further apart, under load"
        )
    capacity = (metrics[1].block_size or 0) * (metrics[1].num_blocks or 0) or base.kv_tokens
    requests = max(1.0, sum(one.running for one in metrics) / 2)
    context = capacity * sum(one.kv_usage for one in metrics) / 2
    step = seconds / tokens * 1e3
    prompts, prefill_seconds = _growth(before, after, _PREFILL)
    _, computed = _growth(before, after, _COMPUTED)
    prefill = expected = None
    if prompts >= _LEAST and computed > 0:
        prefill = prefill_seconds / prompts * 1e3
        expected = base.step_ms(0, 0, base.chunk_ms(round(computed / prompts), 0))
    decode = base.decode_base + base.decode_per_request * requests + base.decode_per_context_token * context
    # Prompts lengthen the steps they share, by what the base profile says.
    shared = prompts * (expected or 0.0) * base.interference * requests / tokens
    return Scales(
        step / (decode + shared), prefill / expected if prefill and expected else None, step, prefill, requests, context
    )


def scaled(base: EngineProfile, by: Scales) -> EngineProfile:
    """The base profile as fast as was seen."""
    prefill = by.prefill if by.prefill is not None else 1.0
    return msgspec.structs.replace(
        base,
        name="calibrated",
        prefill_fixed=base.prefill_fixed * prefill,
        prefill_per_token=base.prefill_per_token * prefill,
        prefill_quadratic=base.prefill_quadratic * prefill,
        prefill_cached=base.prefill_cached * prefill,
        decode_base=base.decode_base * by.decode,
        decode_per_request=base.decode_per_request * by.decode,
        decode_per_context_token=base.decode_per_context_token * by.decode,
        step_floor=base.step_floor * by.decode,
    )


def limits(page: str, base: EngineProfile, max_length: int = 0) -> EngineProfile:
    """The base profile with what an engine tells of its memory and seats; what it does not tell stays."""
    reading = parse_page(page) if page else None
    found: dict[str, int] = {"max_model_len": max_length} if max_length else {}
    if reading is not None:
        metrics = reading.metrics(0.0)
        if metrics.block_size and metrics.num_blocks:
            found |= {"block_size": metrics.block_size, "kv_tokens": metrics.block_size * metrics.num_blocks}
        if metrics.max_num_seqs:
            found["max_num_seqs"] = metrics.max_num_seqs
    return msgspec.structs.replace(base, **found)


def _growth(before: str, after: str, name: str) -> tuple[float, float]:
    """By how much count and sum of a histogram grew, over all its series."""
    counts, sums = ([_total(page, f"{name}_{part}") for page in (before, after)] for part in ("count", "sum"))
    if counts[1] < counts[0] or sums[1] < sums[0]:
        raise CalibrationError("counts fell between the two pages: the engine started again, or they are swapped")
    return counts[1] - counts[0], sums[1] - sums[0]


def _total(page: str, name: str) -> float:
    found = re.findall(rf"^(?:vllm:|sglang:)?{name}(?:{{[^\n]*}})? ([0-9.eE+-]+)", page, re.MULTILINE)
    return sum(map(float, found))
