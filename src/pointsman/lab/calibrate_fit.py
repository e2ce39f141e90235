"""Coefficients of an engine's cost model from measured times: robust least squares, no outside library.

Errors are relative (a millisecond matters more in a short step), outliers count less (Huber), and no coefficient is
negative: a term that would be is left out and the others are fitted again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec

from pointsman.errors import PointsmanError

_ROUNDS = 12
_HUBER = 1.345
"""Residuals beyond so many scales count less: 95 % efficient on clean data (Huber 1981)."""
_LEAST_SCALE = 1e-4


class CalibrationError(PointsmanError):
    """The engine could not be measured, or too little was seen to say anything."""

    reason = "calibration"


class PrefillSample(msgspec.Struct, frozen=True):
    """One prompt alone on an idle engine: tokens computed, tokens found in its cache."""

    new: int
    cached: int
    ms: float


class DecodeSample(msgspec.Struct, frozen=True):
    """The mean step while ``requests`` decode with ``context`` tokens in all."""

    requests: int
    context: float
    ms: float


class InterferenceSample(msgspec.Struct, frozen=True):
    """How much longer a step got by the ``tokens`` of a prompt that shared it."""

    tokens: int
    extra_ms: float


class Fit(msgspec.Struct, frozen=True):
    """Coefficients in milliseconds, as in :class:`pointsman.sim.profiles.EngineProfile`.

    Attributes:
        prefill_error: median relative error of the prefill samples.
        decode_error: the same of the decode samples.
        samples: by kind.
        notes: what was assumed for want of measurements.
    """

    prefill_fixed: float
    prefill_per_token: float
    prefill_quadratic: float
    prefill_cached: float
    decode_base: float
    decode_per_request: float
    decode_per_context_token: float
    interference: float
    prefill_error: float
    decode_error: float
    samples: dict[str, int]
    notes: tuple[str, ...] = ()


def fit(
    prefill: Sequence[PrefillSample],
    decode: Sequence[DecodeSample],
    interference: Sequence[InterferenceSample] = (),
    *,
    usual_interference: float = 0.875,
) -> Fit:
    """All coefficients.

    Args:
        prefill: of at least three lengths without cached tokens.
        decode: of at least three (requests, context) pairs with two or more numbers of requests.
        interference: may be empty.
        usual_interference: taken then.

    Raises:
        CalibrationError: if there are too few samples, naming what is missing.
    """
    cold = [one for one in prefill if not one.cached]
    if len({one.new for one in cold}) < 3:
        raise CalibrationError(
            "too few prompts were answered: prefill needs at least three lengths that miss the cache"
        )
    if len({one.requests for one in decode}) < 2 or len(decode) < 3:
        raise CalibrationError(
            "too few answers were streamed: decoding needs at least two concurrencies, three samples"
        )
    notes: list[str] = []
    warm = [one for one in prefill if one.cached]
    rows = [(1.0, float(one.new), float(one.new) ** 2, 0.0) for one in cold]
    rows += [(1.0, float(one.new), float(one.new) ** 2, float(one.new * one.cached)) for one in warm]
    times = [one.ms for one in (*cold, *warm)]
    if warm:
        fixed, per_token, quadratic, cached = robust(rows, times)
    else:
        fixed, per_token, quadratic = robust([row[:3] for row in rows], times)
        cached = 2 * quadratic
        notes.append("no cached tokens were reported: their cost is taken as twice the square term, as for attention")
    base, per_request, per_context = robust(
        [(1.0, float(one.requests), one.context) for one in decode], [one.ms for one in decode]
    )

    def prefill_ms(row: Sequence[float]) -> float:
        return sum(c * x for c, x in zip((fixed, per_token, quadratic, cached), row, strict=True))

    shares = [
        one.extra_ms / cost for one in interference if (cost := prefill_ms((1.0, one.tokens, one.tokens**2, 0.0))) > 0
    ]
    if not shares:
        notes.append(f"no prompt was seen to share a step with decodes: interference is taken as {usual_interference}")
    return Fit(
        fixed,
        per_token,
        quadratic,
        cached,
        base,
        per_request,
        per_context,
        max(0.0, statistics.median(shares)) if shares else usual_interference,
        _error(prefill_ms, rows, times),
        _error(
            lambda row: sum(c * x for c, x in zip((base, per_request, per_context), row, strict=True)),
            [(1.0, float(one.requests), one.context) for one in decode],
            [one.ms for one in decode],
        ),
        {"prefill": len(times), "decode": len(decode), "interference": len(shares)},
        tuple(notes),
    )


def robust(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Coefficients that are 0 or more and bring ``rows`` times them close to ``values``, relative to those.

    Raises:
        CalibrationError: if the rows do not determine them.
    """
    weights = [1.0 / max(abs(value), 1e-9) for value in values]
    found: list[float] = []
    for _ in range(_ROUNDS):
        found = _non_negative(rows, values, weights)
        errors = [
            sum(c * x for c, x in zip(found, row, strict=True)) / value - 1 if value else 0.0
            for row, value in zip(rows, values, strict=True)
        ]
        scale = max(_LEAST_SCALE, 1.4826 * statistics.median(map(abs, errors)))
        weights = [
            min(1.0, _HUBER * scale / max(abs(error), 1e-12)) ** 0.5 / max(abs(value), 1e-9)
            for error, value in zip(errors, values, strict=True)
        ]
    return found


def _non_negative(rows: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Least squares; the most negative coefficient is dropped until none is."""
    kept = list(range(len(rows[0])))
    while kept:
        part = [[row[i] for i in kept] for row in rows]
        found = _least_squares(part, values, weights)
        worst = min(range(len(kept)), key=found.__getitem__)
        if found[worst] >= 0:
            full = [0.0] * len(rows[0])
            for i, value in zip(kept, found, strict=True):
                full[i] = value
            return full
        del kept[worst]
    return [0.0] * len(rows[0])


def _least_squares(rows: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Normal equations of columns scaled to length 1: with four terms, the precision is enough."""
    width = len(rows[0])
    weighted = [[x * w for x in row] for row, w in zip(rows, weights, strict=True)]
    target = [value * w for value, w in zip(values, weights, strict=True)]
    lengths = [sum(row[i] ** 2 for row in weighted) ** 0.5 or 1.0 for i in range(width)]
    scaled = [[x / length for x, length in zip(row, lengths, strict=True)] for row in weighted]
    matrix = [
        [sum(row[i] * row[j] for row in scaled) for j in range(width)]
        + [sum(row[i] * y for row, y in zip(scaled, target, strict=True))]
        for i in range(width)
    ]
    return [value / length for value, length in zip(_solve(matrix), lengths, strict=True)]


def _solve(matrix: list[list[float]]) -> list[float]:
    """Gauss with the largest pivot."""
    size = len(matrix)
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(matrix[i][column]))
        if abs(matrix[pivot][column]) < 1e-12:
            raise CalibrationError("the samples are too much alike: vary prompt lengths and concurrencies")
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for row in range(size):
            if row != column:
                factor = matrix[row][column] / matrix[column][column]
                matrix[row] = [x - factor * y for x, y in zip(matrix[row], matrix[column], strict=True)]
    return [matrix[i][size] / matrix[i][i] for i in range(size)]


def _error(model: Callable[[Sequence[float]], float], rows: Sequence[Sequence[float]], times: Sequence[float]) -> float:
    return statistics.median(abs(model(row) / time - 1) for row, time in zip(rows, times, strict=True) if time)
