"""The ``/metrics`` page of a simulated engine, byte for byte in vLLM's form.

Everything that does not change is rendered once; a histogram is rendered again only when it was observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pointsman.sim.metrics_catalog import DISTRIBUTIONS, SCALARS, Distribution, Scalar
from pointsman.sim.profiles import EngineProfile
from pointsman.sim.stats import EngineStats, Histogram

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

_Part = Callable[[EngineStats], str]


def number(value: float) -> str:
    """A float as prometheus_client prints it: Go's notation, exponents from 1e6 on."""
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text


def labels(pairs: dict[str, str]) -> str:
    """Sorted labels in braces."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in sorted(pairs.items())) + "}"


def _head(name: str, text: str, kind: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


class MetricsPage:
    """Renders one engine's page.

    Args:
        model: the name the model is served under.
        profile: for the cache's size.
        started: wall time at which the engine's clock was 0, seconds since 1970.
        max_loras: adapters that fit on the device; 0: no LoRA metrics.
    """

    def __init__(self, model: str, profile: EngineProfile, started: float, max_loras: int = 0) -> None:
        self._labels = {"engine": "0", "model_name": model}
        self._started = started
        self._max_loras = max_loras
        self._parts: list[_Part] = [part for scalar in SCALARS for part in self._scalar(scalar)]
        self._parts += [self._distribution(distribution) for distribution in DISTRIBUTIONS]
        self._cache_config = _cache_config(profile)

    def render(self, stats: EngineStats) -> bytes:
        """The page."""
        text = "".join([part(stats) for part in self._parts])
        return (text + self._adapters(stats) + self._cache_config).encode()

    def _scalar(self, scalar: Scalar) -> Iterator[_Part]:
        base = self._labels if scalar.has_engine else {"model_name": self._labels["model_name"]}
        lines = []
        for value, read in scalar.samples:
            pairs = base | {scalar.label: value} if scalar.label else base
            lines.append((labels(pairs), read))
        head = _head(scalar.name, scalar.help, scalar.kind)

        def render(stats: EngineStats) -> str:
            return head + "".join([f"{scalar.name}{text} {number(read(stats))}\n" for text, read in lines])

        yield render
        if scalar.kind == "counter":
            name = scalar.name.removesuffix("_total") + "_created"
            at = number(self._started)
            twin = _head(name, scalar.help, "gauge") + "".join([f"{name}{text} {at}\n" for text, _ in lines])
            yield lambda _: twin

    def _distribution(self, distribution: Distribution) -> _Part:
        name = distribution.name
        own = labels(self._labels)
        head = _head(name, distribution.help, "histogram")
        created = _head(f"{name}_created", distribution.help, "gauge")
        created += f"{name}_created{own} {number(self._started)}\n"
        buckets: list[str] = []
        seen, cached = -1, ""

        def render(stats: EngineStats) -> str:
            nonlocal seen, cached
            histogram = distribution.value(stats)
            if not buckets:
                bounds = [*map(number, histogram.bounds), "+Inf"]
                buckets.extend(f"{name}_bucket{labels(self._labels | {'le': le})} " for le in bounds)
            if histogram.count != seen:
                seen = histogram.count
                tail = f"{name}_count{own} {number(seen)}\n{name}_sum{own} {number(histogram.sum)}\n"
                cached = head + _buckets(buckets, histogram) + tail + created
            return cached

        return render

    def _adapters(self, stats: EngineStats) -> str:
        """Every combination ever seen stays, as on the real page; the newest has the highest value."""
        name = "vllm:lora_requests_info"
        text = _head(name, "Running stats on lora requests.", "gauge")
        if not self._max_loras:
            return text
        for (running, waiting), at in (stats.adapters_seen or {("", ""): 0.0}).items():
            pairs = {"max_lora": str(self._max_loras)}
            pairs |= {"running_lora_adapters": running, "waiting_lora_adapters": waiting}
            text += f"{name}{labels(pairs)} {number(self._started + at)}\n"
        return text


def _buckets(prefixes: list[str], histogram: Histogram) -> str:
    total = 0
    lines = []
    for prefix, count in zip(prefixes, histogram.counts, strict=True):
        total += count
        lines.append(f"{prefix}{number(total)}\n")
    return "".join(lines)


def _cache_config(profile: EngineProfile) -> str:
    name = "vllm:cache_config_info"
    blocks = profile.num_blocks
    pairs = {
        "_block_size_resolved": "True",
        "block_size": str(profile.block_size),
        "cache_dtype": "auto",
        "effective_attention_block_size": str(profile.block_size),
        "enable_prefix_caching": "True",
        "engine": "0",
        "gpu_memory_utilization": "0.9",
        "kv_cache_max_concurrency": str(round(blocks * profile.block_size / profile.max_model_len, 2)),
        "kv_cache_size_tokens": str(blocks * profile.block_size),
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(blocks),
        "num_gpu_blocks_override": "None",
        "prefix_caching_hash_algo": "xxh3_64",
        "sliding_window": "None",
        "user_specified_block_size": "False",
    }
    return f"{_head(name, 'Information of the LLMEngine CacheConfig', 'gauge')}{name}{labels(pairs)} 1.0\n"
