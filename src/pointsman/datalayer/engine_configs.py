"""Engines that users describe, in the words of llm-d's ``engineConfigs``; and the label that picks an engine.

Source: llm-d-router, pkg/epp/framework/plugins/datalayer/extractor/metrics (factories.go, spec.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from pointsman.datalayer.engines import ENGINES, Engine, Engines, InfoMetric, Names, Selector
from pointsman.errors import ConfigError, ConfigErrors

ENGINE_LABELS = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
"""Pod labels whose value names the engine, the newer first."""

_SPEC = re.compile(r"\s*([a-zA-Z_:][\w:]*+)\s*(?:\{(.*)\})?\s*", re.ASCII | re.DOTALL)
_PAIR = re.compile(r'\s*([a-zA-Z_]\w*+)\s*(=~|!~|!=|=)\s*(?:"([^"]*+)"|([^",}\s]++))\s*(?:,|\Z)', re.ASCII)
_RESERVED = "default"


class CustomMetric(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A value of the user's own. Checked, but not read: no plugin here asks for it."""

    attribute_key: str
    metric_spec: str


class EngineConfig(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One entry of ``engineConfigs``. A spec is ``name`` or ``name{label=value,...}``; empty: the engine has none.

    With the name of a built-in engine it takes that one's place. What llm-d has no words for (histograms, prefix cache,
    data-parallel ranks) then stays as built in.
    """

    name: str
    queued_requests_spec: str = ""
    running_requests_spec: str = ""
    kv_usage_spec: str = ""
    lora_spec: str = ""
    cache_info_spec: str = ""
    """A metric whose labels tell the cache's shape."""
    cache_block_size_label_name: str = "block_size"
    cache_num_blocks_label_name: str = "num_gpu_blocks"
    cache_block_size_spec: str = ""
    """A gauge with the tokens per block."""
    cache_num_blocks_spec: str = ""
    custom_metrics: tuple[CustomMetric, ...] = ()


class Choice(NamedTuple):
    """Which engine a pod's labels name."""

    engine: Engine | None
    """None: find out from the page."""
    problem: str = ""
    """``unknown``: a label names an engine that is none of these. ``ambiguous``: two labels name different ones."""


def engine_of(labels: Mapping[str, str], engines: Engines = ENGINES, keys: Sequence[str] = ENGINE_LABELS) -> Choice:
    """The engine that a pod's labels name.

    Args:
        labels: the pod's.
        engines: those that are known, see :func:`engines_with`.
        keys: labels to look at.
    """
    said = [value for key in keys if (value := labels.get(key, "").strip())]
    if not said:
        return Choice(None)
    found = {find_engine(value, engines) for value in said}
    if None in found:
        return Choice(None, "unknown")
    return Choice(found.pop()) if len(found) == 1 else Choice(None, "ambiguous")


def find_engine(name: str, engines: Engines = ENGINES) -> Engine | None:
    """An engine by its name or another name of it, capitals or not."""
    wanted = name.lower()
    return next((engine for engine in engines if wanted in {engine.name.lower(), *engine.aliases}), None)


def read_engine_configs(data: Any) -> tuple[EngineConfig, ...]:
    """Check the type of what a configuration file holds under ``engineConfigs``.

    Raises:
        ConfigError: if it is not a list of entries with these fields.
    """
    try:
        return tuple(msgspec.convert(data, list[EngineConfig]))
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise ConfigError(message, field="engineConfigs" + path.rstrip("`")) from error


def engines_with(configs: Sequence[EngineConfig]) -> Engines:
    """The user's engines, then the built-in ones whose names they do not take.

    Raises:
        ConfigErrors: if names are missing, reserved or said twice, or specs cannot be understood; one for each.
    """
    errors: list[ConfigError] = []
    custom: list[Engine] = []
    for index, config in enumerate(configs):
        field = f"engineConfigs[{index}]"
        if problem := _name_problem(config.name, custom):
            errors.append(ConfigError(problem, field=f"{field}.name"))
        try:
            custom.append(_engine(config, field))
        except ConfigErrors as found:
            errors += found.errors
    if errors:
        raise ConfigErrors(errors)
    taken = {engine.name for engine in custom}
    return (*custom, *(engine for engine in ENGINES if engine.name not in taken))


def parse_spec(text: str, field: str) -> Selector | None:
    """A metric spec such as ``name`` or ``name{label=value,other="value"}``; None when it is empty.

    Raises:
        ConfigError: naming ``field``, if it is something else.
    """
    if not text.strip():
        return None
    found = _SPEC.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no metric", field=field, hint="write name or name{label=value}")
    labels, rest = [], (found[2] or "").strip()
    while rest:
        pair = _PAIR.match(rest)
        if pair is None:
            raise ConfigError(f"{text!r}: {rest!r} is no label", field=field, hint='write label=value or label="value"')
        if pair[2] != "=":
            raise ConfigError(f"{text!r}: {pair[2]} is not supported", field=field, hint="only label=value is")
        labels.append((pair[1], pair[4] if pair[3] is None else pair[3]))
        rest = rest[pair.end() :]
    return Selector(found[1], tuple(labels))


def _name_problem(name: str, others: list[Engine]) -> str:
    if not name.strip() or name == _RESERVED:
        return f"{name!r} cannot be an engine's name"
    return f"{name!r} is there twice" if any(name == other.name for other in others) else ""


class _Specs:
    """Reads the specs of one entry and collects what is wrong with them."""

    def __init__(self, field: str) -> None:
        self._field = field
        self.errors: list[ConfigError] = []

    def one(self, name: str, text: str) -> Selector | None:
        try:
            return parse_spec(text, f"{self._field}.{name}")
        except ConfigError as error:
            self.errors.append(error)
            return None

    def names(self, name: str, text: str) -> Names:
        selector = self.one(name, text)
        return () if selector is None else (selector,)


def _engine(config: EngineConfig, field: str) -> Engine:
    specs = _Specs(field)
    base = next((engine for engine in ENGINES if engine.name == config.name), Engine(config.name))
    info = specs.one("cacheInfoSpec", config.cache_info_spec)
    for at, metric in enumerate(config.custom_metrics):
        specs.one(f"customMetrics[{at}].metricSpec", metric.metric_spec)
    engine = replace(
        base,
        prefix="",  # recognised by the names that follow
        last_resort=False,
        waiting=specs.names("queuedRequestsSpec", config.queued_requests_spec),
        running=specs.names("runningRequestsSpec", config.running_requests_spec),
        kv_usage=specs.names("kvUsageSpec", config.kv_usage_spec),
        kv_used=(),
        lora_info=specs.one("loraSpec", config.lora_spec),
        block_size=specs.names("cacheBlockSizeSpec", config.cache_block_size_spec),
        num_blocks=specs.names("cacheNumBlocksSpec", config.cache_num_blocks_spec),
        cache_info=info and InfoMetric(info, config.cache_block_size_label_name, config.cache_num_blocks_label_name),
    )
    if not specs.errors and not (engine.waiting or engine.running or engine.kv_usage):
        hint = "give queuedRequestsSpec, runningRequestsSpec or kvUsageSpec"
        specs.errors.append(ConfigError("has no load to read", field=field, hint=hint))
    if specs.errors:
        raise ConfigErrors(specs.errors)
    return engine
