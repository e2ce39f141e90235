"""Build: a loaded configuration → a Plan of checked, connected plugins.

Several mistakes are reported together. On reload, a plugin whose type, name and parameters did not change is carried
over with what it has learnt, so that a new weight does not cost the prefix index.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pointsman.api.config import PluginConfig, ProfileConfig, ProfilePlugin
from pointsman.errors import ConfigError, ConfigErrors
from pointsman.framework.compat import BUILT_IN, FEATURE_GATES, NOT_YET
from pointsman.framework.graph import match_keys, ordered_producers, required
from pointsman.framework.loader import LoadedConfig, Path_
from pointsman.framework.observer import Observer
from pointsman.framework.parameters import parameters_asked_for, parameters_of
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
from pointsman.framework.watchdog import Watchdog

DEFAULT_PICKER = PluginSpec("max-score-picker", "max-score-picker")
DEFAULT_HANDLER = PluginSpec("single-profile-handler", "single-profile-handler")

T = TypeVar("T")


class Builder:
    """Builds one Plan. Make a new one for every configuration."""

    def __init__(
        self,
        loaded: LoadedConfig,
        registry: Registry,
        handle: Handle,
        observer: Observer,
        previous: Plan | None = None,
        watchdog: Watchdog | None = None,
        skip: Collection[str] = (),
    ) -> None:
        self._watchdog = watchdog or Watchdog()
        self._skip = skip  # profiles that are none of this plan's
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
            self._attempt(partial(self._add, entry, i), self._loaded.entry_paths[i])
        self._raise_errors()
        profiles = self._profiles()
        handler = self._attempt(partial(self._handler, profiles), self._loaded.root)
        self._raise_errors()
        producers = self._attempt(self._ordered_producers, self._loaded.root)
        self._raise_errors()
        assert handler is not None
        assert producers is not None
        return Plan(
            source=self._loaded.source,
            config=config,
            plugins=self._plugins,
            producers=producers,
            admitters=[p for p in self._plugins.values() if isinstance(p, Admitter)],
            scheduler=Scheduler(profiles, handler, self._observer, config.fallback, self._watchdog),
            watchdog=self._watchdog,
            match_keys=match_keys(self._plugins),
            files=tuple(self._files),
            notes=tuple(self._notes),
        )

    def _attempt(self, action: Callable[[], T], path: Path_) -> T | None:
        """Run one step; None when it failed, so that the next steps can find their own mistakes."""
        try:
            return action()
        except ConfigError as error:
            self._errors.append(self._loaded.error(error, path))
            return None

    def _wrong(self, message: str, path: Path_, hint: str | None = None) -> None:
        self._errors.append(self._loaded.error(ConfigError(message, hint=hint), path))

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
            self._attempt(partial(self._registry.add_file, path), (*self._loaded.root, "pluginPaths", i))

    def _gates(self) -> None:
        config = self._loaded.config
        for i, gate in enumerate(config.feature_gates):
            name, _, value = gate.partition("=")
            if name not in FEATURE_GATES or value not in ("", "true", "false"):
                path = (*self._loaded.root, "featureGates", i)
                self._wrong(f"unknown feature gate {gate!r}", path, f"known: {', '.join(FEATURE_GATES)}")
            elif value != "false" and FEATURE_GATES[name]:
                self._notes.append(f"featureGates: {name}: {FEATURE_GATES[name]}")
        for field, given in (("flowControl", config.flow_control), ("saturationDetector", config.saturation_detector)):
            if given:
                self._notes.append(f"{field}: {FEATURE_GATES['flowControl']}; the section has no effect")
        if config.data_layer and config.data_layer.discovery:
            self._notes.append("dataLayer.discovery: give --endpoint or --endpoints-file; the section has no effect")

    def _add(self, entry: PluginConfig, index: int) -> None:
        name, path = entry.name or entry.type, self._loaded.entry_paths[index]
        if name in self._plugins or name in self._set_aside:
            error = ConfigError(f"two plugins are named {name!r}", hint="give one of them another `name`")
            raise self._loaded.error(error, (*path, "name" if entry.name else "type"))
        if entry.type not in self._registry and entry.type in BUILT_IN:
            self._set_aside.add(name)
            self._notes.append(f"plugins: {entry.type}: {BUILT_IN[entry.type]}")
            return
        try:
            cls = self._class(entry.type)
        except ConfigError as error:
            raise self._loaded.error(error, (*path, "type")) from None
        self._instantiate(cls, parameters_of(entry, index, cls, self._loaded), name)

    def _class(self, type_string: str) -> type[Plugin[Any]]:
        if type_string not in self._registry and type_string in NOT_YET:
            raise ConfigError(
                f"{type_string!r} is an llm-d plugin that this version of Pointsman does not have",
                hint="`pointsman plugins` lists what there is",
            )
        return self._registry.get(type_string)

    def _add_spec(self, spec: PluginSpec) -> Plugin[Any]:
        cls = self._registry.get(spec.type)
        return self._instantiate(cls, parameters_asked_for(spec, cls), spec.name)

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
            if entry.name in self._skip:
                continue
            if entry.name in profiles:
                self._wrong(f"two profiles are named {entry.name!r}", self._loaded.profile_path(i, "name"))
            profile = self._attempt(partial(self._profile, entry, i), self._loaded.profile_path(i))
            if profile is not None:
                profiles[entry.name] = profile
        return profiles

    def _profile(self, entry: ProfileConfig, index: int) -> SchedulingProfile:
        members = self._members(entry, index)
        plugins = [plugin for plugin, _ in members]
        scorers = [
            WeightedScorer(plugin, 1.0 if weight is None else weight)
            for plugin, weight in members
            if isinstance(plugin, Scorer | CostScorer)
        ]
        pickers = [plugin for plugin in plugins if isinstance(plugin, Picker)]
        if len(pickers) > 1:
            names = ", ".join(plugin.name for plugin in pickers)
            raise ConfigError(f"profile {entry.name!r} has {len(pickers)} pickers: {names}", hint="keep one")
        if len({isinstance(scorer.plugin, CostScorer) for scorer in scorers}) > 1:
            raise ConfigError(
                f"profile {entry.name!r} mixes scores and costs in milliseconds",
                hint="use only scorers or only *-cost plugins in one profile",
            )
        picker: Picker[Any] = pickers[0] if pickers else self._default(DEFAULT_PICKER, Picker)
        filters = [plugin for plugin in plugins if isinstance(plugin, Filter)]
        return SchedulingProfile(entry.name, filters, scorers, picker, self._observer, self._watchdog)

    def _members(self, entry: ProfileConfig, index: int) -> list[tuple[Plugin[Any], float | None]]:
        """The plugins that a profile refers to, with the weights given there."""
        members: dict[str, tuple[Plugin[Any], float | None]] = {}
        for j, member in enumerate(entry.plugins):
            name, path = member.plugin_ref, self._loaded.profile_path(index, "plugins", j, "pluginRef")
            if name in self._set_aside:
                continue
            if name not in self._plugins:
                near = get_close_matches(name, self._plugins, n=1, cutoff=0.5)
                self._wrong(f"no plugin is named {name!r}", path, f"did you mean {near[0]!r}?" if near else None)
            elif name in members:
                self._wrong(f"profile {entry.name!r} names {name!r} twice", path, "keep one, with the sum of weights")
            else:
                members[name] = self._plugins[name], member.weight
        return list(members.values())

    def _default(self, spec: PluginSpec, kind: type[Any]) -> Any:
        plugin = self._plugins.get(spec.name) or self._add_spec(spec)
        if not isinstance(plugin, kind):
            raise ConfigError(
                f"the plugin named {spec.name!r} is no {kind.__name__}, and the default one has that name",
                hint="give it another `name`",
            )
        return plugin

    def _handler(self, built: Collection[str]) -> ProfileHandler[Any]:
        profiles = sum(entry.name not in self._skip for entry in self._loaded.config.scheduling_profiles)
        handlers = [p for p in self._plugins.values() if isinstance(p, ProfileHandler)]
        if len(handlers) > 1:
            names = ", ".join(p.name for p in handlers)
            raise ConfigError(f"{len(handlers)} profile handlers: {names}", field="plugins", hint="keep one")
        handler: ProfileHandler[Any] = handlers[0] if handlers else self._default(DEFAULT_HANDLER, ProfileHandler)
        if handler.type == DEFAULT_HANDLER.type and profiles > 1:
            error = ConfigError(
                f"{profiles} profiles need a profile handler that chooses among them",
                hint="keep one profile, or add a handler",
            )
            raise self._loaded.error(error, (*self._loaded.root, "schedulingProfiles"))
        try:
            handler.check(tuple(built), tuple(self._plugins))
            handler.main_profile()  # asked again by the Scheduler, where it may not fail
        except ConfigError as error:
            entries = self._loaded.config.plugins
            at = (i for i, entry in enumerate(entries) if (entry.name or entry.type) == handler.name)
            raise self._loaded.error(error, self._loaded.entry_paths[next(at)]) from None
        except Exception as error:
            raise ConfigError(
                f"plugin {handler.name!r}: check() or main_profile() failed: {type(error).__name__}: {error}"
            ) from error
        return handler

    def _ordered_producers(self) -> list[DataProducer[Any]]:
        """Add the producers that plugins ask for, then those that these ask for, and put all in order."""
        pending = list(self._plugins.values())
        while pending:
            missing = (spec for spec in required(pending.pop()) if spec.name not in self._plugins)
            pending.extend(map(self._add_spec, missing))
        return ordered_producers(self._plugins)
