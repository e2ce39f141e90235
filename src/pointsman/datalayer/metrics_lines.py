r"""Finds the lines of a metrics page that are wanted, and takes them apart.

One regular expression finds them; nothing else of the page is looked at (0.05 ms of 64 KB). Taking labels apart is
what would cost, 15 µs for vLLM's 1 KB of cache configuration alone; but a pod's page has the same names and labels
five times a second, so what they mean is kept, and a line costs a look-up and a float.

Both text forms are read: Prometheus' (with or without a time) and OpenMetrics' (exemplars behind ``#``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import islice
from typing import NamedTuple

import msgspec

from pointsman.datalayer.engines import LabelRules

MAX_SAMPLES = 5_000
"""Most lines that are read of one page: 80 ranks with both histograms. A hostile page of 4 MB costs 30 ms, no more."""
MAX_LINE = 128 * 1024
"""Longest line that is read, in characters; a thousand running adapters need 40 KB."""
MAX_KEPT = 2048
"""Longest name with labels whose meaning is kept, in characters; vLLM's cache configuration has 1.2 KB."""
MAX_KEPT_LABELS = 100
"""Most labels of one series whose meaning is kept: with 2048 series that is 50 MB at the very worst, 1 MB usually."""
MAX_AT_ONCE = 1024 * 1024
"""Characters of a page up to which all its lines are found in one go, which is faster than one by one."""

_LABEL = r'[ \t]*+(?P<{name}>[a-zA-Z_]\w*+)[ \t]*+=[ \t]*+"(?P<{value}>[^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+'
_ONE_LABEL = re.compile(_LABEL.format(name="name", value="value"))
_HEAD = re.compile(
    r"([a-zA-Z_:][\w:]*+)(?:[ \t]*+\{((?:" + _LABEL.format(name="_n", value="_v") + r"(?:,|(?=\})))*+)[ \t]*+\})?+"
)
_ESCAPE = re.compile(r'\\([\\n"])')
_PLAIN = {"\\": "\\", "n": "\n", '"': '"'}
_NO_RULES = LabelRules()


class Labels(msgspec.Struct, frozen=True, eq=False):
    """What the labels of one series mean. Shared between pages and compared by identity; read only."""

    name: str
    """The metric's."""
    values: Mapping[str, str]
    rank: int | None
    """Data-parallel rank; None when the series is of all."""
    share: bool
    """Part of a total that may stand beside it."""
    series: frozenset[tuple[str, str]]
    """What tells it from others, replicas and ``le`` left out."""
    bound: float | None
    """Upper bound of a histogram's bucket."""


Series = dict[Labels, float]
"""The samples of one metric: values are finite and not negative."""


class Samples(NamedTuple):
    """What was found of some metrics."""

    by_name: dict[str, Series]
    skipped: int
    """Lines of these metrics that could not be used."""


def read_samples(page: str, names: frozenset[str], rules: LabelRules = _NO_RULES) -> Samples:
    """The samples of the named metrics, in the page's order.

    Lines that cannot be read are counted and left out; of a series that stands there twice, the last one counts.

    Args:
        page: the text.
        names: metrics, exactly.
        rules: what labels mean.
    """
    by_name: dict[str, Series] = {name: {} for name in names}
    lines, skipped = _lines(page, names)
    for head, tail in lines:
        labels, value = _labels_of(head, rules), math.nan
        try:
            # Python takes 1_0 for a number; an exemplar has such names too.
            value = float(tail) if labels is not None and "_" not in tail else math.nan
        except ValueError:
            value = math.nan
        if labels is None or value != value:  # noqa: PLR0124 - NaN, and a third of the time of isnan
            labels, value = _slowly(head + tail, rules)
        # Nothing that is read here can be negative or infinite.
        if labels is None or not 0 <= value < math.inf:
            skipped += 1
            continue
        series = by_name[labels.name]
        skipped += labels in series
        series[labels] = value
    return Samples(by_name, skipped)


def number_of(text: str | None) -> float:
    """A label's whole number; 0 for "None" and the like."""
    return float(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else 0.0


def forget_labels() -> None:
    """Drop what is kept of labels: measurements want to see the first page of a pod."""
    _kept.cache_clear()


def _lines(page: str, names: frozenset[str]) -> tuple[list[tuple[str, str]], int]:
    """Name with labels, and what follows, of each line; and how many lines were too many (of a huge page: at most)."""
    pattern, text = _wanted(names), "\n" + page
    if len(text) <= MAX_AT_ONCE:
        found = pattern.findall(text)
        return found[:MAX_SAMPLES], max(0, len(found) - MAX_SAMPLES)
    matches = list(islice(pattern.finditer(text), MAX_SAMPLES))
    left = text.count("\n", matches[-1].end()) if len(matches) == MAX_SAMPLES else 0
    return [(match[1], match[2]) for match in matches], left


@cache
def _wanted(names: frozenset[str]) -> re.Pattern[str]:
    """Finds lines of these metrics.

    The common beginning is spelled once, which lets the regular expression engine skip from line to line. Labels end
    at the line's last brace, before an exemplar's ``#``; when that is wrong, they turn out not to be well formed.
    """
    alternatives = "|".join(sorted(map(re.escape, names), reverse=True)) or r"(?!)"
    return re.compile(rf"\n[ \t]*+((?:{alternatives})(?=[ \t{{])(?:[ \t]*+\{{[^\n#]*\}})?)([^\n]*+)")


def _slowly(line: str, rules: LabelRules) -> tuple[Labels | None, float]:
    """A line with a time, an exemplar, or garbage."""
    found = _HEAD.match(line) if len(line) <= MAX_LINE else None
    words = line[found.end() :].partition("#")[0].split() if found else []
    if found is None or not 1 <= len(words) <= 2 or "_" in words[0]:
        return None, math.nan
    try:
        return _labels_of(found[0], rules), float(words[0])
    except ValueError:
        return None, math.nan


def _labels_of(head: str, rules: LabelRules) -> Labels | None:
    worth_keeping = len(head) <= MAX_KEPT and (len(head) < MAX_KEPT_LABELS or head.count("=") <= MAX_KEPT_LABELS)
    if worth_keeping:
        return _kept(head, rules)
    return _labels(head, rules) if len(head) <= MAX_LINE else None


def _labels(head: str, rules: LabelRules) -> Labels | None:
    """What a name with labels means, or None when it is not well formed."""
    found = _HEAD.fullmatch(head)
    if found is None:
        return None
    values = {
        each["name"]: _ESCAPE.sub(lambda escape: _PLAIN[escape[1]], each["value"])
        for each in _ONE_LABEL.finditer(found[2] or "")
    }
    rank = values.get(rules.rank, "")
    left_out = rules.replicas | {"le"}
    return Labels(
        name=found[1],
        values=values,
        rank=int(rank) if rank.isascii() and rank.isdecimal() and len(rank) < 6 else None,
        share=any(values.get(name, whole) not in {"", whole} for name, whole in rules.shares),
        series=_the_one(frozenset((name, value) for name, value in values.items() if name not in left_out)),
        bound=_bound(values.get("le")),
    )


_kept = lru_cache(maxsize=2048)(_labels)


@lru_cache(maxsize=256)
def _the_one(series: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """The same object for the same series, as its buckets are compared often."""
    return series


def _bound(text: str | None) -> float | None:
    try:
        bound = math.nan if text is None else float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound
