r"""A fast reader of engines' metrics pages.

A page is 50 to 80 KB, comes five times a second from every pod, and holds some ten lines that matter. One regular
expression finds those lines; nothing else of the page is looked at. What is read equals what a full parser would have
read, except that a line which is garbage or NaN is left out instead of spoiling the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cache
from itertools import islice
from typing import NamedTuple

from pointsman.api.endpoint import EndpointMetrics, LoraState
from pointsman.datalayer.engines import Engine, Names, detect_engine

MAX_SAMPLES = 10_000
"""Most lines that are read of one page; a hostile page costs milliseconds, not the event loop."""

_LABEL = r'[ \t]*+(?P<{name}>[a-zA-Z_]\w*+)[ \t]*+=[ \t]*+"(?P<{value}>[^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+'
_ONE_LABEL = re.compile(_LABEL.format(name="name", value="value"))
_SOME_LABELS = "(?:" + _LABEL.format(name="_n", value="_v") + r"(?:,|(?=\})))*+"
_ALL_LABELS = re.compile(r"[ \t]*+\{(?P<labels>" + _SOME_LABELS + r")[ \t]*+\}")
_ESCAPE = re.compile(r'\\([\\n"])')
_PLAIN = {"\\": "\\", "n": "\n", '"': '"'}
_PRIORITY = re.compile(r'(?:^|[{,\s])priority="[^"]')


class Sample(NamedTuple):
    """One line: the labels as they stand on the page, and the value, which is finite."""

    labels: str
    value: float

    def label_map(self) -> dict[str, str]:
        """The labels, unescaped."""
        return {
            found["name"]: _ESCAPE.sub(lambda escape: _PLAIN[escape[1]], found["value"])
            for found in _ONE_LABEL.finditer(self.labels)
        }


Samples = dict[str, list[Sample]]


def parse_metrics(page: str, now: float, engine: Engine | None = None) -> EndpointMetrics | None:
    """Read a metrics page in the Prometheus text format.

    Several series of one metric (data-parallel ranks behind one port) are taken together: requests and blocks are
    summed, KV usage is averaged.

    Args:
        page: the text.
        now: seconds of the picker's clock, kept as ``updated``.
        engine: whose names to look for; recognised from the page when left out.

    Returns:
        What was found, or None when the page has neither waiting nor running requests nor KV usage: such a page is
        not an engine's, or not yet, and zeros would look like an idle engine.
    """
    engine = engine or detect_engine(page)
    if engine is None:
        return None
    samples = read_samples(page, engine.names())
    waiting, running, usage = (_values(samples, names) for names in (engine.waiting, engine.running, engine.kv_usage))
    if not (waiting or running or usage):
        return None
    block_size, num_blocks = _cache_shape(samples, engine)
    return EndpointMetrics(
        waiting=int(sum(waiting)),
        running=int(sum(running)),
        kv_usage=min(1.0, math.fsum(usage) / len(usage)) if usage else 0.0,
        block_size=block_size,
        num_blocks=num_blocks,
        lora=_lora(samples.get(engine.lora_info or "", [])),
        prefix_queries=sum(_values(samples, engine.prefix_queries)),
        prefix_hits=sum(_values(samples, engine.prefix_hits)),
        updated=now,
    )


def read_samples(page: str, names: frozenset[str]) -> Samples:
    """The samples of the named metrics, in the page's order. Lines that cannot be read are left out."""
    samples: Samples = {}
    for name, rest in islice(_read_lines(page, names), MAX_SAMPLES):
        sample = _sample(rest)
        if sample is not None:
            samples.setdefault(name, []).append(sample)
    return samples


def _read_lines(page: str, names: frozenset[str]) -> Iterable[tuple[str, str]]:
    return ((found[1], found[2]) for found in _wanted(names).finditer("\n" + page))


@cache
def _wanted(names: frozenset[str]) -> re.Pattern[str]:
    """Finds lines of these metrics.

    The common beginning is spelled once, which lets the regular expression engine skip from line to line.
    """
    alternatives = "|".join(sorted(map(re.escape, names), reverse=True))
    return re.compile(rf"\n[ \t]*+({alternatives})(?=[ \t{{])([^\n]*+)")


def _sample(rest: str) -> Sample | None:
    """What follows the name: labels, value and perhaps a time, which is not used."""
    labels = ""
    if found := _ALL_LABELS.match(rest):
        labels, rest = found["labels"], rest[found.end() :]
    words = rest.split()
    if not 1 <= len(words) <= 2 or "_" in words[0]:
        return None
    try:
        value = float(words[0])
    except ValueError:
        return None
    # Nothing that is read here can be negative or infinite.
    return Sample(labels, value) if 0 <= value < math.inf else None


def _values(samples: Samples, names: Names) -> list[float]:
    """Values of the first name that is there.

    SGLang gives a total without a priority and then one series per priority; adding them up would count twice.
    """
    found = next((samples[name] for name in names if name in samples), [])
    totals = [sample.value for sample in found if not _PRIORITY.search(sample.labels)]
    return totals or [sample.value for sample in found]


def _cache_shape(samples: Samples, engine: Engine) -> tuple[int | None, int | None]:
    """Tokens per block, and blocks of all ranks together."""
    sizes = _positive(_values(samples, engine.block_size))
    counts = _positive(_values(samples, engine.num_blocks))
    if info := engine.cache_info:
        labels = [sample.label_map() for sample in samples.get(info.name, [])]
        sizes = sizes or _positive(_number(each.get(info.block_size)) for each in labels)
        counts = counts or _positive(_number(each.get(info.num_blocks)) for each in labels)
    return (sizes[0] if sizes else None), (sum(counts) if counts else None)


def _positive(values: Iterable[float]) -> list[int]:
    return [int(value) for value in values if value >= 1]


def _number(text: str | None) -> float:
    """A label's number; 0 for "None" and the like."""
    return float(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else 0.0


def _lora(samples: list[Sample]) -> LoraState:
    """VLLM keeps a series for every combination it ever had; the value is a time, so the highest is the present."""
    if not samples:
        return LoraState()
    labels = max(samples, key=lambda sample: sample.value).label_map()
    return LoraState(
        capacity=int(_number(labels.get("max_lora"))),
        running=_adapters(labels.get("running_lora_adapters")),
        waiting=_adapters(labels.get("waiting_lora_adapters")),
    )


def _adapters(text: str | None) -> frozenset[str]:
    return frozenset(name for part in (text or "").split(",") if (name := part.strip()))
