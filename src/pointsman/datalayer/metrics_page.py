"""A fast reader of engines' metrics pages.

A page is 48 to 84 KB, comes five times a second from every pod, and holds some sixty lines that matter. What is read
equals what a full parser would have read, except that a line which is garbage, NaN or negative is left out and
counted instead of spoiling the page.

Several series of one metric are data-parallel ranks when the engine's rank label differs (vLLM: ``engine``, SGLang:
``dp_rank``), and are added up when anything else does (models, streaming or not). What an engine tells only for the
whole port stands, if it adds up, with the first rank; block size, block count, KV usage and adapters stand with each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from pointsman.api.endpoint import EndpointMetrics, LoraState
from pointsman.datalayer.engines import ENGINES, Engine, Engines, Names, Selector, detect_engine, underscored
from pointsman.datalayer.metrics_lines import Labels, Samples, Series, number_of, read_samples
from pointsman.datalayer.reading import Histogram, RankReading, Reading, cumulative

MAX_RANKS = 1024
"""Most data-parallel ranks of one page."""
MAX_COUNT = 2**53
"""Counts above are cut: past it floats skip whole numbers."""

_ByRank = dict[int | None, float]
"""A quantity by data-parallel rank; None: of the whole port."""


def parse_metrics(page: str, now: float, engine: Engine | None = None) -> EndpointMetrics | None:
    """What a page says of its port as a whole; see :func:`parse_page`, but histograms are not read.

    Args:
        page: the text.
        now: seconds of the picker's clock, kept as ``updated``.
        engine: whose names to look for; recognised from the page when left out.
    """
    reading = parse_page(page, engine, histograms=False)
    return None if reading is None else reading.metrics(now)


def parse_page(
    page: str, engine: Engine | None = None, *, histograms: bool = True, engines: Engines = ENGINES
) -> Reading | None:
    """Read a metrics page in the Prometheus or OpenMetrics text format.

    Args:
        page: the text.
        engine: whose names to look for; recognised from the page when left out.
        histograms: also read the latencies, which are half of the cost.
        engines: those to recognise.

    Returns:
        What was found, or None when the page has neither waiting nor running requests nor KV usage: such a page is
        not an engine's, or not yet, and zeros would look like an idle engine.
    """
    engine = engine or detect_engine(page, engines)
    if engine is None:
        return None
    reading = _read(page, engine, histograms)
    if reading is None and (other := underscored(engine)):
        reading = _read(page, other, histograms)
    return reading


def _read(page: str, engine: Engine, histograms: bool) -> Reading | None:
    samples = read_samples(page, _names(engine, histograms), engine.labels)
    return _Page(engine, samples).reading(histograms=histograms)


@lru_cache(maxsize=64)
def _names(engine: Engine, histograms: bool) -> frozenset[str]:
    return engine.names(histograms=histograms)


class _Page:
    """The samples of one page on their way to readings."""

    def __init__(self, engine: Engine, samples: Samples) -> None:
        self._engine, self._samples = engine, samples

    def reading(self, *, histograms: bool) -> Reading | None:
        engine = self._engine
        waiting, running = self._sums(engine.waiting), self._sums(engine.running)
        sizes, counts, seats = self._shape()
        usage = self._usage(counts)
        if not (waiting or running or usage):
            return None
        queries, hits = self._prefix(sizes)
        ttft, itl = (self._histograms(names) if histograms else {} for names in (engine.ttft, engine.itl))
        loras = self._loras()
        found = {rank for of in (waiting, running, usage, queries, hits, ttft, itl) for rank in of if rank is not None}
        ranks = sorted(found or {0})
        first, usual_usage = ranks[0], math.fsum(usage.values()) / len(usage) if usage else 0.0

        def own(of: Mapping[int | None, float], rank: int) -> float:
            """A quantity that adds up: what is of the whole port is counted once."""
            return of.get(rank, 0.0) + (of.get(None, 0.0) if rank == first else 0.0)

        readings = [
            RankReading(
                rank=rank,
                waiting=_count(own(waiting, rank)),
                running=_count(own(running, rank)),
                kv_usage=min(1.0, usage.get(rank, usage.get(None, usual_usage))),
                block_size=_whole(sizes.get(rank, sizes.get(None))),
                num_blocks=_whole(counts.get(rank, counts.get(None))),
                max_num_seqs=_whole(seats.get(rank, seats.get(None))),
                lora=loras.get(rank, loras.get(None, _NO_LORA)),
                prefix_queries=own(queries, rank),
                prefix_hits=own(hits, rank),
                ttft=ttft.get(rank, ttft.get(None) if rank == first else None),
                itl=itl.get(rank, itl.get(None) if rank == first else None),
            )
            for rank in ranks[:MAX_RANKS]
        ]
        return Reading(engine.name, tuple(readings), self._samples.skipped + max(0, len(ranks) - MAX_RANKS))

    def _series(self, selector: Selector) -> Series:
        found = self._samples.by_name.get(selector.name, {})
        if not selector.labels:
            return found
        return {labels: value for labels, value in found.items() if selector.matches(labels.values)}

    def _found(self, names: Names) -> Series:
        """The series of the first name that is there."""
        return next((series for selector in names if (series := self._series(selector))), {})

    def _grouped(self, names: Names, merge: Callable[[list[float]], float]) -> _ByRank:
        """Merge the series of each rank; replicas count once, and a total beside its shares is not added to them."""
        series = self._found(names)
        if len(series) == 1:
            ((labels, value),) = series.items()
            return {labels.rank: value}
        groups: dict[tuple[int | None, bool], dict[frozenset[tuple[str, str]], float]] = {}
        for labels, value in series.items():
            group = groups.setdefault((labels.rank, labels.share), {})
            group[labels.series] = max(value, group.get(labels.series, 0.0))
        merged: _ByRank = {}
        for (rank, _), group in groups.items():
            # The larger one: SGLang gives either a total or its shares per request, or both for the same.
            merged[rank] = max(merge(list(group.values())), merged.get(rank, 0.0))
        return merged

    def _sums(self, names: Names) -> _ByRank:
        return self._grouped(names, math.fsum)

    def _usage(self, counts: _ByRank) -> _ByRank:
        """Used share of the KV cache, from used blocks when the page has no share."""
        usage = self._grouped(self._engine.kv_usage, _mean)
        if usage or not self._engine.kv_used:
            return usage
        used = self._sums(self._engine.kv_used)
        return {rank: value / counts[rank] for rank, value in used.items() if counts.get(rank, 0.0) >= 1}

    def _shape(self) -> tuple[_ByRank, _ByRank, _ByRank]:
        """Tokens per block, blocks, and requests that run at once."""
        engine = self._engine
        sizes = self._grouped(engine.block_size, max)
        counts, seats = self._sums(engine.num_blocks), self._sums(engine.max_num_seqs)
        if info := engine.cache_info:
            for labels in self._series(info.selector):
                told = ((sizes, info.block_size), (counts, info.num_blocks), (seats, info.max_num_seqs))
                for quantity, name in told:
                    if (value := number_of(labels.values.get(name))) >= 1:
                        quantity.setdefault(labels.rank, value)
        return sizes, counts, seats

    def _prefix(self, sizes: _ByRank) -> tuple[_ByRank, _ByRank]:
        """Prompt tokens looked up in the prefix cache, and those found."""
        engine = self._engine
        queries, hits = self._sums(engine.prefix_queries), self._sums(engine.prefix_hits)
        if engine.prefix_misses:
            misses = self._sums(engine.prefix_misses)
            queries = {rank: hits.get(rank, 0.0) + misses.get(rank, 0.0) for rank in {**hits, **misses}}
        if engine.prefix_in_blocks:
            queries, hits = (
                {rank: value * sizes.get(rank, sizes.get(None, 0.0)) for rank, value in of.items()}
                for of in (queries, hits)
            )
        return queries, hits

    def _loras(self) -> dict[int | None, LoraState]:
        """VLLM keeps a series for every combination it ever had; the value is a time, so the highest is the present."""
        if self._engine.lora_info is None:
            return {}
        newest: dict[int | None, tuple[float, Labels]] = {}
        for labels, value in self._series(self._engine.lora_info).items():
            if labels.rank not in newest or value > newest[labels.rank][0]:
                newest[labels.rank] = (value, labels)
        return {rank: _lora(labels.values) for rank, (_, labels) in newest.items()}

    def _histograms(self, names: Names) -> dict[int | None, Histogram]:
        """The first histogram that is there, by rank; those of several models are added up."""
        for selector in names:
            buckets, counts, totals = (
                self._series(Selector(selector.name + suffix, selector.labels))
                for suffix in ("_bucket", "_count", "_sum")
            )
            if buckets:
                return _histogram(buckets, counts, totals)
        return {}


_NO_LORA = LoraState()


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _count(value: float) -> int:
    return int(min(value, MAX_COUNT))


def _whole(value: float | None) -> int | None:
    return _count(value) if value is not None and value >= 1 else None


def _lora(labels: Mapping[str, str]) -> LoraState:
    return LoraState(
        capacity=int(number_of(labels.get("max_lora"))),
        running=frozenset(_adapters(labels.get("running_lora_adapters"))),
        waiting=frozenset(_adapters(labels.get("waiting_lora_adapters"))),
    )


def _adapters(text: str | None) -> Iterable[str]:
    return (name for part in (text or "").split(",") if (name := part.strip()))


def _histogram(buckets: Series, counts: Series, totals: Series) -> dict[int | None, Histogram]:
    by_series: dict[frozenset[tuple[str, str]], tuple[int | None, dict[float, float]]] = {}
    for labels, value in buckets.items():
        if labels.bound is not None:
            by_series.setdefault(labels.series, (labels.rank, {}))[1][labels.bound] = value
    count_of = {labels.series: value for labels, value in counts.items()}
    total_of = {labels.series: value for labels, value in totals.items()}
    found: dict[int | None, Histogram] = {}
    for series, (rank, bounds) in by_series.items():
        histogram = cumulative(bounds, count_of.get(series), total_of.get(series, 0.0))
        if histogram is not None:
            found[rank] = histogram.plus(found[rank]) if rank in found else histogram
    return found
