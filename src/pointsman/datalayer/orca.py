"""Load that an engine reports along with an answer (ORCA: open request cost aggregation). Pure.

vLLM (0.14 and later) sends ``endpoint-load-metrics`` when the request had ``endpoint-load-metrics-format: TEXT`` or
``JSON``, with answers that are not streamed. The value begins with the format (``TEXT a=1, b=2``, ``JSON {...}``);
its newer front end leaves the word out. Triton sends the same header with other metrics.
"""

from __future__ import annotations

import math
import re

import msgspec

HEADER = "endpoint-load-metrics"
MAX_CHARS = 4096
"""A longer header is not read."""

_FORMAT = re.compile(r"(?:(TEXT|JSON)[ \t]+)?(?=[^ \t])", re.IGNORECASE)
_PAIR = re.compile(r"[ \t]*([A-Za-z_][\w.\-]*)[ \t]*=[ \t]*([^,\s]+)[ \t]*(?:,|\Z)")
_NAMED = "named_metrics"
_USAGE = ("kv_cache_usage_perc", "kv_cache_utilization")
_WAITING = ("num_requests_waiting",)
_MAX_COUNT = 1e9


class LoadReport(msgspec.Struct, frozen=True):
    """What one header says; None where it says nothing."""

    waiting: int | None = None
    kv_usage: float | None = None
    """Used share of the KV cache, 0 to 1."""


class _Json(msgspec.Struct):
    named_metrics: dict[str, float] = {}


_decoder = msgspec.json.Decoder(_Json)


def parse_load_report(value: str) -> LoadReport | None:
    """Read the header's value; None when it holds nothing that is known, whatever it is."""
    if len(value) > MAX_CHARS:
        return None
    found = _FORMAT.match(value.strip())
    if found is None:
        return None
    text = value.strip()[found.end() :]
    named = _from_json(text) if text.startswith("{") else _from_text(text)
    usage, waiting = _first(named, _USAGE, 1.0), _first(named, _WAITING, _MAX_COUNT)
    if usage is None and waiting is None:
        return None
    return LoadReport(None if waiting is None else int(waiting), usage)


def _from_json(text: str) -> dict[str, float]:
    try:
        return _decoder.decode(text).named_metrics
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}


def _from_text(text: str) -> dict[str, float]:
    named = {}
    for name, number in _PAIR.findall(text):
        try:
            named[name.removeprefix(f"{_NAMED}.")] = float(number)
        except ValueError:
            continue
    return named


def _first(named: dict[str, float], names: tuple[str, ...], most: float) -> float | None:
    """The first of these that is there and can be true: finite, from 0 to ``most``."""
    for name in names:
        value = named.get(name)
        if value is not None and math.isfinite(value) and 0 <= value <= most:
            return value
    return None
