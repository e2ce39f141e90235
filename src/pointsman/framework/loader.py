"""Loader: a file's text → the long form of the configuration, with line numbers for every complaint.

Three ways to write it are understood: llm-d's ``EndpointPickerConfig``; the short form (``filters``, ``scorers``,
``selection``); and either of them inside Helm values under ``inferenceExtension.pluginsCustomConfig`` (there also as
llm-d's map of file name → YAML text).
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from pointsman.api.config import (
    API_VERSIONS,
    DEPRECATED_API_VERSION,
    KIND,
    EndpointPickerConfig,
    PluginConfig,
    ProfileConfig,
    ProfilePlugin,
    ShortConfig,
)
from pointsman.errors import ConfigError
from pointsman.framework.compat import SHORT_PICKERS
from pointsman.framework.yaml_errors import format_path
from pointsman.framework.yaml_lines import Document, convert, load_yaml

DEFAULT_WEIGHT = 1.0
PENALTY_WEIGHT = 50.0
"""Weight of a filter that also scores, in the short form: the brief's weight for load."""

SHORT_FIELDS = frozenset({"filters", "scorers", "selection"})
LONG_FIELDS = frozenset({"apiVersion", "kind", "plugins", "schedulingProfiles"})
ENTRY_FIELDS = ("type", "name", "weight", "parameters")

Path_ = tuple[str | int, ...]

_KINDS: dict[type[Any], str] = {list: "a list", str: "text", bool: "true or false"}


class LoadedConfig(msgspec.Struct, frozen=True):
    """A configuration in its long form, and where each plugin and profile entry stands in the file.

    Attributes:
        config: the long form.
        document: what lines are looked up in; its source names a text inside Helm values.
        source: the file's path, or ``preset:NAME``.
        entry_paths: for every one of ``config.plugins`` the path of its entry in the document.
        root: path of the configuration in the document.
        short: whether it was written in the short form, which has no profiles to point at.
        notes: things a user should know but that are no errors.
    """

    config: EndpointPickerConfig
    document: Document
    source: str
    entry_paths: tuple[Path_, ...]
    root: Path_ = ()
    short: bool = False
    notes: tuple[str, ...] = ()

    def error(self, error: ConfigError, path: Path_) -> ConfigError:
        """The same error with file, line and field of ``path`` (relative to the document)."""
        own = error.source in (None, self.document.source)  # a plugin file's lines are not this file's
        return error.at(self.document.source, self.document.line(path) if own else None, format_path(path) or None)

    def profile_path(self, index: int, *rest: str | int) -> Path_:
        """Where a profile stands, or a field in it; the whole configuration when it writes none."""
        written = self.config.scheduling_profiles and not self.short
        return (*self.root, "schedulingProfiles", index, *rest) if written else self.root

    def parameter_path(self, index: int, field: Path_) -> Path_:
        """Where a parameter of plugin ``index`` stands: under ``parameters`` or beside ``type``."""
        entry = self.entry_paths[index]
        nested = _at(self.document.data, entry).get("parameters")
        if isinstance(nested, dict) and (not field or field[0] in nested):
            return (*entry, "parameters", *field)
        return (*entry, *field)


def preset_names() -> list[str]:
    """Names of the built-in presets."""
    files = resources.files("pointsman").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def read_source(name: str) -> tuple[str, str]:
    """The text behind a preset's name or a file's path, and how to call it in messages.

    Raises:
        ConfigError: if there is neither such a preset nor such a readable file.
    """
    if name in preset_names():
        return resources.files("pointsman").joinpath("presets", f"{name}.yaml").read_text("utf-8"), f"preset:{name}"
    if not Path(name).exists():
        near = get_close_matches(name, preset_names(), n=1)
        hint = f"did you mean the preset {near[0]!r}?" if near else f"presets: {', '.join(preset_names())}"
        raise ConfigError("no such file or preset", source=name, hint=hint)
    return read_file(Path(name)), name


def read_file(path: Path) -> str:
    """A file's text.

    Raises:
        ConfigError: if it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8 text", source=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=str(path)) from error


def load_config(text: str, source: str) -> LoadedConfig:
    """Parse a configuration.

    Raises:
        ConfigError: naming file, line and field, with a suggestion where one is near.
    """
    document, root = _unwrap(load_yaml(text, source), source)
    data = _at(document.data, root)
    if data is None:
        hint = "`pointsman config show default` prints a start"
        raise document.error("there is no configuration in it" if root else "the file is empty", root, hint)
    if not isinstance(data, dict):
        raise document.error(f"expected a mapping, got {_KINDS.get(type(data), 'a number')}", root)
    if SHORT_FIELDS & data.keys() and not LONG_FIELDS & data.keys():
        return _from_short(document, root, source)
    return _from_long(document, root, source)


def _at(data: Any, path: Path_) -> Any:
    for part in path:
        data = data[part]
    return data


def _unwrap(document: Document, source: str) -> tuple[Document, Path_]:
    """Look through Helm values for the configuration inside."""
    data: Any = document.data
    root: Path_ = ()
    for key in ("inferenceExtension", "pluginsCustomConfig"):
        if isinstance(data, dict) and key in data:
            data, root = data[key], (*root, key)
    if root == ("inferenceExtension",) and isinstance(data, dict):
        raise document.error("these Helm values hold no pluginsCustomConfig", root)
    if not root or not isinstance(data, dict):
        return document, root
    texts = [name for name, value in data.items() if isinstance(value, str) and str(name).endswith((".yaml", ".yml"))]
    if not texts:
        return document, root
    if len(texts) > 1:
        raise document.error(f"several files: {', '.join(texts)}", root, "keep the one to use")
    return load_yaml(data[texts[0]], f"{source}#{texts[0]}"), ()


def _from_long(document: Document, root: Path_, source: str) -> LoadedConfig:
    config = convert(document, EndpointPickerConfig, root)
    loaded = LoadedConfig(
        config,
        document,
        source,
        tuple((*root, "plugins", i) for i in range(len(config.plugins))),
        root,
        notes=(f"apiVersion {DEPRECATED_API_VERSION} is deprecated, write llm-d.ai/v1alpha1",)
        if config.api_version == DEPRECATED_API_VERSION
        else (),
    )
    if config.api_version not in API_VERSIONS:
        error = ConfigError(f"unknown apiVersion {config.api_version!r}", hint=f"one of {', '.join(API_VERSIONS)}")
        raise loaded.error(error, (*root, "apiVersion"))
    if config.kind != KIND:
        raise loaded.error(ConfigError(f"unknown kind {config.kind!r}", hint=f"expected {KIND}"), (*root, "kind"))
    return loaded


def _from_short(document: Document, root: Path_, source: str) -> LoadedConfig:
    short = convert(document, ShortConfig, root)
    plugins: list[PluginConfig] = []
    members: list[ProfilePlugin] = []
    paths: list[Path_] = []
    for section, entries, weight in (
        ("filters", short.filters, PENALTY_WEIGHT),
        ("scorers", short.scorers, DEFAULT_WEIGHT),
    ):
        for i in range(len(entries)):
            paths.append((*root, section, i))
            entry = _entry(document, paths[-1])
            plugins.append(PluginConfig(type=entry["type"], name=entry.get("name"), parameters=entry["parameters"]))
            members.append(ProfilePlugin(plugin_ref=_name(plugins[-1]), weight=entry.get("weight", weight)))
    paths.append((*root, "selection") if "selection" in _at(document.data, root) else root)
    plugins.append(_selection(short))
    members.append(ProfilePlugin(plugin_ref=_name(plugins[-1])))
    config = EndpointPickerConfig(
        plugins=plugins,
        scheduling_profiles=[ProfileConfig(name="default", plugins=members)],
        plugin_paths=short.plugin_paths,
        prometheus=short.prometheus,
        fallback=short.fallback,
        latency_profile=short.latency_profile,
        latency_fit=short.latency_fit,
        latency_per_pod=short.latency_per_pod,
        observe_share=short.observe_share,
        pick_budget=short.pick_budget,
        shadow=short.shadow,
        shadow_share=short.shadow_share,
    )
    return LoadedConfig(config, document, source, tuple(paths), root, short=True)


def _name(plugin: PluginConfig) -> str:
    return plugin.name or plugin.type


def _entry(document: Document, path: Path_) -> dict[str, Any]:
    """One entry of ``filters`` or ``scorers``; parameters may stand nested or beside ``type``."""
    raw: dict[str, Any] = _at(document.data, path)

    def wrong(message: str, field: str, hint: str | None = None) -> ConfigError:
        return document.error(message, (*path, field), hint)

    if not isinstance(raw.get("type"), str):
        raise wrong("expected the plugin's type", "type", "such as `type: queue-depth`")
    if "name" in raw and not isinstance(raw["name"], str):
        raise wrong("expected a string", "name")
    weight = raw.get("weight", 0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1e9:
        raise wrong(f"expected a number >= 0, got {weight!r}", "weight")
    nested = raw.get("parameters")
    if nested is not None and not isinstance(nested, dict):
        raise wrong("expected a mapping", "parameters")
    inline = {key: value for key, value in raw.items() if key not in ENTRY_FIELDS}
    if inline and nested:
        raise wrong("parameters stand both beside `type` and under `parameters`", next(iter(inline)), "keep one place")
    entry: dict[str, Any] = {key: raw[key] for key in ("type", "name", "weight") if key in raw}
    entry["parameters"] = nested or inline
    return entry


def _selection(short: ShortConfig) -> PluginConfig:
    selection = short.selection
    kind = selection.type or ("top-k" if selection.top_k is not None else "max-score")
    parameters = dict(selection.parameters or {})
    if selection.top_k is not None:
        parameters["topK"] = selection.top_k
    return PluginConfig(type=SHORT_PICKERS.get(kind, kind), parameters=parameters)
