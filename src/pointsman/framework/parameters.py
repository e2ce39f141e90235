"""A plugin's parameters as its struct, with complaints that point into the file."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import msgspec

from pointsman.api.config import PluginConfig
from pointsman.errors import ConfigError
from pointsman.framework.loader import ENTRY_FIELDS, LoadedConfig
from pointsman.framework.plugin import Params, Plugin, PluginSpec
from pointsman.framework.yaml_errors import Problem, explain


def parameters_of(entry: PluginConfig, index: int, cls: type[Plugin[Any]], loaded: LoadedConfig) -> Params:
    """Check the parameters of the plugin entry ``index``.

    Raises:
        ConfigError: with line, field and, where there is one, the name that was probably meant.
    """
    values = entry.parameters or {}
    try:
        return msgspec.convert(values, cls.Params)
    except msgspec.ValidationError as error:
        problem = explain(str(error), values, cls.Params)
        path = loaded.parameter_path(index, problem.path)
        inline = path[:-1] == loaded.entry_paths[index]
        hint = (_meant_entry_field(problem) if inline else None) or problem.hint
        raise loaded.error(ConfigError(problem.message, hint=hint), path) from None
    except Exception as error:
        raise ConfigError(_unreadable(cls, error)) from error


def parameters_asked_for(spec: PluginSpec, cls: type[Plugin[Any]]) -> Params:
    """Check the parameters with which one plugin asks for another.

    Raises:
        ConfigError: if they do not fit.
    """
    try:
        return msgspec.convert(dict(spec.parameters), cls.Params)
    except Exception as error:
        raise ConfigError(f"plugin {spec.name!r} is asked for wrongly: {error}") from error


def _meant_entry_field(problem: Problem) -> str | None:
    """Beside ``type``, a misspelt ``weight`` looks like a parameter."""
    if not problem.message.startswith("unknown field"):
        return None
    near = get_close_matches(str(problem.path[-1]), ENTRY_FIELDS, n=1, cutoff=0.8)
    return f"did you mean `{near[0]}`?" if near else None


def _unreadable(cls: type[Plugin[Any]], error: Exception) -> str:
    """The struct is the plugin author's: its types may be none that msgspec knows, its checks may raise anything."""
    return f"the parameters of {cls.type!r} cannot be read: {type(error).__name__}: {error}"
