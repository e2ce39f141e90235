"""Build: a loaded configuration → a Plan of checked, connected plugins.

Several mistakes are reported together. On reload, a plugin whose type, name and parameters did not change is carried
over with what it has learnt, so that a new weight does not cost the prefix index.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import msgspec

from pointsman.api.config import PluginConfig, ProfileConfig, ProfilePlugin
from pointsman.errors import ConfigError, ConfigErrors
from pointsman.framework.compat import BUILT_IN, FEATURE_GATES, NOT_YET
from pointsman.framework.loader import LoadedConfig, Path_
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import (
    Admitter,
    CostScorer,
    DataProducer,
    Filter,
    Handle,
    Picker,
    Plugin,
    PluginSpec,
    ProfileHandler,
    Scorer,
)
from pointsman.framework.profile import SchedulingProfile, WeightedScorer
from pointsman.framework.registry import Registry
from pointsman.framework.scheduler import Scheduler
from pointsman.framework.yaml_lines import convert

DEFAULT_PICKER = PluginSpec("max-score-picker", "max-score-picker")
DEFAULT_HANDLER = PluginSpec("single-profile-handler", "single-profile-handler")
PREFIX_MATCH = "prefix-match/"


class Builder:
    """Builds one Plan. Make a new one for every configuration."""

    def __init__(
        self,
        loaded: LoadedConfig,
        registry: Registry,
        handle: Handle,
        observer: Observer,
        previous: Plan | None = None,
    ) -> None:
        self._loaded = loaded
        self._registry = registry.copy()
        self._handle = handle
        self._observer = observer
        self._previous: Mapping[str, Plugin[Any]] = previous.plugins if previous else {}
        self._plugins: dict[str, Plugin[Any]] = {}
        self._set_aside: set[str] = set()
        self._errors: list[ConfigError] = []
        self._notes: list[str] = list(loaded.notes)
        self._files: list[str] = []

    def build(self) -> Plan:
        """Build everything.

        Raises:
            ConfigError: what is wrong, with line and field; several mistakes come as ConfigErrors.
        """
        config = self._loaded.config
        self._load_files()
        self._gates()
        for i, entry in enumerate(config.plugins):
            self._attempt(lambda i=i, entry=entry: self._add(entry, i), ("plugins", i))
        self._raise_errors()
        profiles = self._profiles()
        handler = self._handler(len(profiles))
        self._raise_errors()
        self._add_required()
        return Plan(
            source=self._loaded.source,
            config=config,
            plugins=self._plugins,
            producers=self._ordered_producers(),
            admitters=[p for p in self._plugins.values() if isinstance(p, Admitter)],
            scheduler=Scheduler(profiles, handler, self._observer, config.fallback),
            match_keys=self._match_keys(),
            files=tuple(self._files),
            notes=tuple(self._notes),
        )

    def _attempt(self, action: Any, path: Path_) -> None:
        try:
            action()
        except ConfigError as error:
            self._errors.append(self._loaded.error(error, (*self._loaded.root, *path)))

    def _raise_errors(self) -> None:
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ConfigErrors(self._errors)

    def _load_files(self) -> None:
        base = Path(self._loaded.source).parent
        for i, name in enumerate(self._loaded.config.plugin_paths):
            path = base / name
            self._files.append(str(path))
            self._attempt(lambda path=path: self._registry.add_file(path), ("pluginPaths", i))

    def _gates(self) -> None:
        config = self._loaded.config
        for i, gate in enumerate(config.feature_gates):
            name, _, value = gate.partition("=")
            if name not in FEATURE_GATES or value not in ("", "true", "false"):
                error = ConfigError(f"unknown feature gate {gate!r}", hint=f"known: {', '.join(FEATURE_GATES)}")
                self._attempt(_raiser(error), ("featureGates", i))
            elif value != "false" and FEATURE_GATES[name]:
                self._notes.append(f"featureGates: {name}: {FEATURE_GATES[name]}")
        for field, given in (("flowControl", config.flow_control), ("saturationDetector", config.saturation_detector)):
            if given:
                self._notes.append(f"{field}: {FEATURE_GATES['flowControl']}; the section has no effect")
        if config.data_layer and config.data_layer.discovery:
            self._notes.append("dataLayer.discovery: give --endpoint or --endpoints-file; the section has no effect")

    def _add(self, entry: PluginConfig, index: int) -> None:
        name = entry.name or entry.type
        if name in self._plugins or name in self._set_aside:
            raise ConfigError(f"two plugins are named {name!r}", hint="give one of them another `name`")
        if entry.type not in self._registry:
            if entry.type in BUILT_IN:
                self._set_aside.add(name)
                self._notes.append(f"plugins: {entry.type}: {BUILT_IN[entry.type]}")
                return
            if entry.type in NOT_YET:
                raise ConfigError(
                    f"{entry.type!r} is an llm-d plugin that this version of Pointsman does not have",
                    hint="`pointsman plugins` lists what there is",
                )
        cls = self._registry.get(entry.type)
        document, path = self._loaded.document, self._loaded.plugin_paths[index]
        if _stands_in(document.data, path):
            params = convert(document, cls.Params, path)
        else:
            params = _convert_inline(cls.Params, entry.parameters or {}, self._loaded, path)
        self._instantiate(cls, params, name)

    def _add_spec(self, spec: PluginSpec) -> Plugin[Any]:
        cls = self._registry.get(spec.type)
        params = msgspec.convert(dict(spec.parameters), cls.Params)
        return self._instantiate(cls, params, spec.name)

    def _instantiate(self, cls: type[Plugin[Any]], params: Any, name: str) -> Plugin[Any]:
        old = self._previous.get(name)
        if old is not None and type(old) is cls and old.params == params and old.handle == self._handle:
            plugin = old
        else:
            try:
                plugin = cls(params, self._handle, name)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f"plugin {name!r} cannot be built: {type(error).__name__}: {error}") from error
        self._plugins[name] = plugin
        return plugin

    def _profiles(self) -> dict[str, SchedulingProfile]:
        entries = self._loaded.config.scheduling_profiles
        if not entries:
            members = [
                ProfilePlugin(plugin_ref=name)
                for name, plugin in self._plugins.items()
                if isinstance(plugin, Filter | Scorer | CostScorer | Picker)
            ]
            entries = [ProfileConfig(name="default", plugins=members)]
        profiles: dict[str, SchedulingProfile] = {}
        for i, entry in enumerate(entries):
            if entry.name in profiles:
                error = ConfigError(f"two profiles are named {entry.name!r}")
                self._attempt(_raiser(error), ("schedulingProfiles", i, "name"))
            self._attempt(
                lambda i=i, e=entry: profiles.update({e.name: self._profile(e, i)}), ("schedulingProfiles", i)
            )
        return profiles

    def _profile(self, entry: ProfileConfig, index: int) -> SchedulingProfile:
        filters: list[Filter[Any]] = []
        scorers: list[WeightedScorer] = []
        pickers: list[Picker[Any]] = []
        for j, member in enumerate(entry.plugins):
            path = ("schedulingProfiles", index, "plugins", j, "pluginRef")
            if member.plugin_ref in self._set_aside:
                continue
            if member.plugin_ref not in self._plugins:
                near = get_close_matches(member.plugin_ref, self._plugins, n=1, cutoff=0.5)
                error = ConfigError(
                    f"no plugin is named {member.plugin_ref!r}", hint=f"did you mean {near[0]!r}?" if near else None
                )
                self._attempt(_raiser(error), path)
                continue
            plugin = self._plugins[member.plugin_ref]
            if isinstance(plugin, Filter):
                filters.append(plugin)
            if isinstance(plugin, Scorer | CostScorer):
                scorers.append(WeightedScorer(plugin, 1.0 if member.weight is None else member.weight))
            if isinstance(plugin, Picker):
                pickers.append(plugin)
        if len(pickers) > 1:
            raise ConfigError(f"profile {entry.name!r} has {len(pickers)} pickers", hint="keep one")
        if len({isinstance(s.plugin, CostScorer) for s in scorers}) > 1:
            raise ConfigError(
                f"profile {entry.name!r} mixes scores and costs in milliseconds",
                hint="use only scorers or only *-cost plugins in one profile",
            )
        picker = pickers[0] if pickers else self._default(DEFAULT_PICKER, Picker)
        return SchedulingProfile(entry.name, filters, scorers, picker, self._observer)

    def _default(self, spec: PluginSpec, kind: type[Any]) -> Any:
        plugin = self._plugins.get(spec.name)
        return plugin if isinstance(plugin, kind) else self._add_spec(spec)

    def _handler(self, profiles: int) -> ProfileHandler[Any]:
        handlers = [p for p in self._plugins.values() if isinstance(p, ProfileHandler)]
        if len(handlers) > 1:
            names = ", ".join(p.name for p in handlers)
            raise ConfigError(f"{len(handlers)} profile handlers: {names}", source=self._loaded.source, hint="keep one")
        handler: ProfileHandler[Any] = handlers[0] if handlers else self._default(DEFAULT_HANDLER, ProfileHandler)
        if handler.type == DEFAULT_HANDLER.type and profiles > 1:
            raise ConfigError(
                f"{profiles} profiles need a profile handler that chooses among them",
                source=self._loaded.source,
                field="schedulingProfiles",
                hint="keep one profile, or add a handler",
            )
        return handler

    def _add_required(self) -> None:
        """Add the producers that plugins ask for, then those that these ask for, until nothing is missing."""
        pending = list(self._plugins.values())
        while pending:
            for spec in pending.pop().requires():
                present = self._plugins.get(spec.name)
                if present is None:
                    pending.append(self._add_spec(spec))

    def _ordered_producers(self) -> list[DataProducer[Any]]:
        producers = [p for p in self._plugins.values() if isinstance(p, DataProducer)]
        by_key: dict[str, DataProducer[Any]] = {}
        for producer in producers:
            for key in producer.produces():
                if key.name in by_key:
                    raise self._graph_error(
                        f"{by_key[key.name].name!r} and {producer.name!r} both produce {key.name!r}"
                    )
                by_key[key.name] = producer
        for plugin in self._plugins.values():
            for key in plugin.consumes():
                if key.name not in by_key:
                    known = ", ".join(sorted(by_key)) or "none"
                    raise self._graph_error(
                        f"plugin {plugin.name!r} needs {key.name!r}, which no plugin produces", f"produced: {known}"
                    )
        graph = {p.name: {by_key[key.name].name for key in p.consumes()} for p in producers}
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise self._graph_error(f"producers need each other: {' → '.join(error.args[1])}") from None
        named = {p.name: p for p in producers}
        return [named[name] for name in order]

    def _graph_error(self, message: str, hint: str | None = None) -> ConfigError:
        return ConfigError(message, source=self._loaded.source, field="plugins", hint=hint)

    def _match_keys(self) -> list[Any]:
        keys = [
            key
            for plugin in self._plugins.values()
            if isinstance(plugin, DataProducer)
            for key in plugin.produces()
            if key.name.startswith(PREFIX_MATCH)
        ]
        return sorted(keys, key=lambda key: "precise" not in key.name)


def _stands_in(data: Any, path: Path_) -> bool:
    """Whether a plugin's parameters are a mapping of their own in the file."""
    for part in path:
        if not isinstance(data, dict | list) or (isinstance(data, dict) and part not in data):
            return False
        data = data[part]
    return path[-1] == "parameters" and data is not None


def _raiser(error: ConfigError) -> Any:
    def action() -> None:
        raise error

    return action


def _convert_inline(params: type[Any], values: dict[str, Any], loaded: LoadedConfig, path: Path_) -> Any:
    """Parameters that do not stand on their own in the file: beside ``type``, or given by ``selection``."""
    try:
        return msgspec.convert(values, params)
    except msgspec.ValidationError as error:
        message, _, field = str(error).partition(" - at `$")
        names = [f.encode_name for f in msgspec.structs.fields(params)]
        unknown = next((key for key in values if key not in names), None)
        if unknown is not None:
            near = get_close_matches(unknown, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"parameters: {', '.join(names) or 'none'}"
            raise loaded.error(ConfigError(f"unknown parameter {unknown!r}", hint=hint), (*path, unknown)) from None
        where = (*path, *[part for part in field.strip("`").split(".") if part])
        raise loaded.error(ConfigError(message), where) from None
