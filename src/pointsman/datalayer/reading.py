"""What one metrics page says, by data-parallel rank; and cumulative histograms, whose growth gives quantiles."""

from __future__ import annotations

import bisect
import math

import msgspec

from pointsman.api.endpoint import EndpointMetrics, LoraState


class Histogram(msgspec.Struct, frozen=True):
    """A histogram as it stands on a page: counts since the engine started, each including the buckets below it."""

    bounds: tuple[float, ...]
    """Upper bounds in seconds, rising; the last one is inf."""
    counts: tuple[float, ...]
    """Observations up to each bound; they never fall from one to the next."""
    total: float
    """Sum of all observations, in seconds (``_sum``)."""

    @property
    def count(self) -> float:
        """All observations."""
        return self.counts[-1] if self.counts else 0.0

    def since(self, before: Histogram | None) -> Histogram | None:
        """What came after an earlier reading of the same histogram.

        Returns:
            The growth; None when nothing came, when there is no earlier reading, or when the two cannot be compared:
            other bounds, or a count that fell because the engine started again.
        """
        if before is None or before.bounds != self.bounds:
            return None
        counts = tuple([now - then for now, then in zip(self.counts, before.counts, strict=True)])
        if counts[-1] <= 0 or min(counts) < 0:
            return None
        # Buckets read one after the other may be a request apart: no bucket may hold less than the one below.
        rising = _rising(counts)
        return Histogram(self.bounds, rising, max(0.0, self.total - before.total))

    def plus(self, other: Histogram) -> Histogram:
        """Both together; with other bounds, which cannot be added, the one that saw more."""
        if other.bounds != self.bounds:
            return max(self, other, key=lambda histogram: histogram.count)
        counts = tuple([one + two for one, two in zip(self.counts, other.counts, strict=True)])
        return Histogram(self.bounds, counts, self.total + other.total)

    def quantile(self, q: float) -> float:
        """The value below which the share ``q`` of all observations lies, in seconds; nan when there is none.

        The formula is Prometheus' ``histogram_quantile`` (``bucketQuantile`` in promql/quantile.go): linear within
        the bucket that holds the rank, the lowest bucket begins at 0, and what falls above the highest finite bound
        is given as that bound.

        Args:
            q: 0 to 1; outside -inf and inf, as in Prometheus.
        """
        if q < 0 or q > 1:
            return -math.inf if q < 0 else math.inf
        if self.count <= 0 or len(self.bounds) < 2 or math.isnan(q):
            return math.nan
        rank = q * self.count
        at = bisect.bisect_left(self.counts, rank)
        if at >= len(self.bounds) - 1:
            return self.bounds[-2]
        end = self.bounds[at]
        if at == 0 and end <= 0:
            return end
        start = self.bounds[at - 1] if at else 0.0
        below = self.counts[at - 1] if at else 0.0
        inside = self.counts[at] - below
        return start + (end - start) * ((rank - below) / inside) if inside > 0 else end


def cumulative(buckets: dict[float, float], count: float | None, total: float) -> Histogram | None:
    """A histogram from a page's buckets, in whatever order and state they stand there.

    Args:
        buckets: upper bound → count up to it.
        count: the ``_count`` line, which stands in for a missing +Inf bucket.
        total: the ``_sum`` line.

    Returns:
        The histogram, its counts made to rise; None when there is not a single bucket.
    """
    if not buckets:
        return None
    if math.inf not in buckets:
        buckets = {**buckets, math.inf: max(buckets.values()) if count is None else count}
    bounds = sorted(buckets)
    return Histogram(tuple(bounds), _rising(tuple([buckets[bound] for bound in bounds])), total)


def _rising(counts: tuple[float, ...]) -> tuple[float, ...]:
    """Counts that never fall; the same tuple when they do not anyway."""
    if sorted(counts) == list(counts):
        return counts
    result, highest = [], 0.0
    for count in counts:
        highest = max(highest, count)
        result.append(highest)
    return tuple(result)


class RankReading(msgspec.Struct, frozen=True):
    """One data-parallel rank; an engine without them is rank 0."""

    rank: int = 0
    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0
    """Used share of the KV cache, 0 to 1; 0 also where the engine does not tell."""
    block_size: int | None = None
    """Tokens per KV block."""
    num_blocks: int | None = None
    max_num_seqs: int | None = None
    """Requests that run at once at most."""
    lora: LoraState = LoraState()
    prefix_queries: float = 0.0
    """Prompt tokens looked up in the prefix cache since the engine started."""
    prefix_hits: float = 0.0
    """Of them, tokens found."""
    ttft: Histogram | None = None
    """Time to first token; None also when histograms were not asked for."""
    itl: Histogram | None = None
    """Time between two output tokens."""


class Reading(msgspec.Struct, frozen=True):
    """One page."""

    engine: str
    """Name of the engine that wrote it."""
    ranks: tuple[RankReading, ...]
    """Never empty; by rank, rising."""
    skipped: int = 0
    """Lines about what is read here that could not be used: garbage, NaN, negative, said twice, or too many."""

    def metrics(self, now: float) -> EndpointMetrics:
        """The whole port: counts are summed, KV usage is the ranks' mean. Quantiles need two readings: not here.

        Args:
            now: seconds of the picker's clock, kept as ``updated``.
        """
        ranks = self.ranks
        lora = [rank.lora for rank in ranks]
        return EndpointMetrics(
            waiting=sum(rank.waiting for rank in ranks),
            running=sum(rank.running for rank in ranks),
            kv_usage=math.fsum(rank.kv_usage for rank in ranks) / len(ranks),
            block_size=next((rank.block_size for rank in ranks if rank.block_size is not None), None),
            num_blocks=_sum([rank.num_blocks for rank in ranks]),
            max_num_seqs=_sum([rank.max_num_seqs for rank in ranks]),
            lora=lora[0]
            if len(lora) == 1
            else LoraState(
                capacity=max(state.capacity for state in lora),
                running=frozenset().union(*(state.running for state in lora)),
                waiting=frozenset().union(*(state.waiting for state in lora)),
            ),
            prefix_queries=sum(rank.prefix_queries for rank in ranks),
            prefix_hits=sum(rank.prefix_hits for rank in ranks),
            engine=self.engine,
            ranks=len(ranks),
            source="scrape",
            updated=now,
        )


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
