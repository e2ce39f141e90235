"""What an engine counts for its metrics page. Times are engine seconds."""

from __future__ import annotations

from bisect import bisect_left

SIZE_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
ITERATION_BUCKETS = tuple(float(2**i) for i in (0, *range(3, 15)))
COUNT_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)
PREEMPTION_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


class Histogram:
    """Counts per bucket (not cumulative; the last is above all bounds), sum and count."""

    __slots__ = ("bounds", "count", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.count = 0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times
        self.count += times

    def observe_between(self, low: float, high: float, total: float, times: int) -> bool:
        """Take ``times`` values from ``low`` to ``high`` that sum up to ``total``. False: not all in one bucket."""
        bucket = bisect_left(self.bounds, low)
        if bucket != bisect_left(self.bounds, high):
            return False
        self.counts[bucket] += times
        self.sum += total
        self.count += times
        return True


class EngineStats:
    """Counters, gauges and histograms of one engine, named after vLLM's metrics.

    Gauges are as of the end of the last step: an engine reports itself when it has stepped, not when asked.
    """

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.deferred = 0
        """Of ``waiting``, those that wait for an adapter slot."""
        self.kv_usage = 0.0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.preemptions = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self.adapters_seen: dict[tuple[str, str], float] = {}
        """(running, waiting) adapters, comma-joined, and the engine time each combination was last true."""
        self.request_prompt_tokens = Histogram(SIZE_BUCKETS)
        self.request_generation_tokens = Histogram(SIZE_BUCKETS)
        self.iteration_tokens = Histogram(ITERATION_BUCKETS)
        self.request_max_num_generation_tokens = Histogram(SIZE_BUCKETS)
        self.request_params_n = Histogram(COUNT_BUCKETS)
        self.request_params_max_tokens = Histogram(SIZE_BUCKETS)
        self.time_to_first_token = Histogram(FIRST_TOKEN_BUCKETS)
        self.inter_token_latency = Histogram(TOKEN_BUCKETS)
        self.time_per_output_token = Histogram(TOKEN_BUCKETS)
        self.e2e_latency = Histogram(LATENCY_BUCKETS)
        self.queue_time = Histogram(LATENCY_BUCKETS)
        self.inference_time = Histogram(LATENCY_BUCKETS)
        self.prefill_time = Histogram(LATENCY_BUCKETS)
        self.decode_time = Histogram(LATENCY_BUCKETS)
        self.request_preemptions = Histogram(PREEMPTION_BUCKETS)
        self.prefill_computed_tokens = Histogram(SIZE_BUCKETS)
