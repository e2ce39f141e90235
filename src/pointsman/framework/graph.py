"""Who writes what others read: the order of producers, and the mistakes that can be seen before the first request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from pointsman.errors import ConfigError
from pointsman.framework.keys import PrefixMatch
from pointsman.framework.plugin import DataProducer, Plugin, PluginSpec
from pointsman.framework.state import StateKey

PREFIX_MATCH = "prefix-match/"

T = TypeVar("T")
Plugins = Mapping[str, Plugin[Any]]


def required(plugin: Plugin[Any]) -> tuple[PluginSpec, ...]:
    """What a plugin asks to be built with it.

    Raises:
        ConfigError: if its ``requires`` raises or answers with something else.
    """
    return _declared(plugin, plugin.requires, PluginSpec)


def ordered_producers(plugins: Plugins) -> list[DataProducer[Any]]:
    """Every producer, each after those whose keys it consumes.

    Raises:
        ConfigError: if a key has two producers or none, or producers wait for each other.
    """
    producers = {name: plugin for name, plugin in plugins.items() if isinstance(plugin, DataProducer)}
    writer: dict[str, str] = {}
    for name, producer in producers.items():
        for key in _declared(producer, producer.produces, StateKey):
            if key.name in writer:
                raise _wrong(f"{writer[key.name]!r} and {name!r} both produce {key.name!r}", "keep one of them")
            writer[key.name] = name
    waits_for: dict[str, list[str]] = {}
    for name, plugin in plugins.items():
        keys = _declared(plugin, plugin.consumes, StateKey)
        for key in keys:
            if key.name not in writer:
                known = ", ".join(sorted(writer)) or "nothing"
                raise _wrong(f"plugin {name!r} needs {key.name!r}, which no plugin produces", f"produced: {known}")
        waits_for[name] = [writer[key.name] for key in keys]
    try:
        order = list(TopologicalSorter({name: waits_for[name] for name in producers}).static_order())
    except CycleError as error:
        raise _wrong(f"producers need each other: {' → '.join(error.args[1])}") from None
    return [producers[name] for name in order]


def match_keys(plugins: Plugins) -> list[StateKey[PrefixMatch]]:
    """Keys of prefix matches: from the engines' own events, heard here or elsewhere, before those that are guessed."""
    keys = [
        key
        for plugin in plugins.values()
        if isinstance(plugin, DataProducer)
        for key in plugin.produces()
        if key.name.startswith(PREFIX_MATCH)
    ]
    return sorted(keys, key=lambda key: ("precise" not in key.name, "remote" not in key.name, "burst" in key.name))


def _declared(plugin: Plugin[Any], declare: Callable[[], tuple[T, ...]], kind: type[T]) -> tuple[T, ...]:
    """What a plugin says of itself. It may be anybody's code, so nothing it does may escape as another error."""
    method = f"{plugin.name!r}: {getattr(declare, '__name__', 'a method')}()"
    try:
        answer = tuple(declare())
    except Exception as error:
        raise _wrong(f"{method} failed: {type(error).__name__}: {error}") from error
    if not all(isinstance(item, kind) for item in answer):
        raise _wrong(f"{method} must return a tuple of {kind.__name__}, got {answer!r}")
    return answer


def _wrong(message: str, hint: str | None = None) -> ConfigError:
    return ConfigError(message, field="plugins", hint=hint)
