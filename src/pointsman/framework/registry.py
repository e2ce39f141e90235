"""Registry: type string → plugin class.

In-tree plugins are found by walking :mod:`pointsman.plugins`; other packages offer theirs through the entry-point
group ``pointsman.plugins`` (a module or a class); a plain file is named in the configuration under ``pluginPaths``.
A second class with the same type string is refused, wherever it comes from.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pointsman.errors import ConfigError
from pointsman.framework.plugin import Plugin

ENTRY_POINT_GROUP = "pointsman.plugins"
IN_TREE_PACKAGE = "pointsman.plugins"

PluginClass = type[Plugin[Any]]

_HOW = "decorate the class with @register('my-scorer')"


class Registry:
    """A set of plugin classes by type string. Copy it to add the plugins of one configuration."""

    def __init__(self) -> None:
        self._classes: dict[str, PluginClass] = {}
        self._origin: dict[str, str] = {}

    def add(self, cls: type[Any], origin: str) -> None:
        """Add one class.

        Raises:
            ConfigError: if it is no plugin class, its type string is taken or it cannot be built (abstract).
        """
        if not (issubclass(cls, Plugin) and cls.type):
            raise ConfigError(f"{origin} is no plugin", hint=_HOW)
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(cls.__abstractmethods__))
            raise ConfigError(f"plugin {cls.type!r} in {origin} does not implement {missing}")
        if cls.type in self._classes:
            raise ConfigError(f"plugin type {cls.type!r} of {origin} is already taken by {self._origin[cls.type]}")
        self._classes[cls.type] = cls
        self._origin[cls.type] = origin

    def add_module(self, module: ModuleType, origin: str | None = None) -> int:
        """Add every marked plugin class defined in a module; returns how many there were."""
        count = 0
        classes = dict.fromkeys(value for value in vars(module).values() if isinstance(value, type))
        for cls in classes:  # each once, however many names it has
            if issubclass(cls, Plugin) and cls.__module__ == module.__name__ and cls.__dict__.get("type"):
                self.add(cls, origin or module.__name__)
                count += 1
        return count

    def add_file(self, path: Path) -> None:
        """Import a plain Python file and add its plugins.

        Raises:
            ConfigError: if the file cannot be read or imported, or defines no plugin.
        """
        module = _import_file(path)
        if not self.add_module(module, str(path)):
            raise ConfigError(f"{path} defines no plugin", hint=_HOW)

    def copy(self) -> Registry:
        other = Registry()
        other._classes.update(self._classes)
        other._origin.update(self._origin)
        return other

    def get(self, type_string: str) -> PluginClass:
        """The class of a type string.

        Raises:
            ConfigError: if there is none; names the closest type strings.
        """
        try:
            return self._classes[type_string]
        except KeyError:
            near = get_close_matches(type_string, self._classes, n=2, cutoff=0.6)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?" if near else "`pointsman plugins` lists the known types"
            )
            raise ConfigError(f"unknown plugin type {type_string!r}", hint=hint) from None

    def __contains__(self, type_string: str) -> bool:
        return type_string in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def origin(self, type_string: str) -> str:
        """Module or file that a plugin comes from."""
        return self._origin[type_string]


@cache
def _installed() -> Registry:
    registry = Registry()
    package = importlib.import_module(IN_TREE_PACKAGE)
    for info in sorted(pkgutil.walk_packages(package.__path__, IN_TREE_PACKAGE + "."), key=lambda info: info.name):
        registry.add_module(importlib.import_module(info.name))
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        origin = f"entry point {entry.name!r} ({entry.value})"
        try:
            target = entry.load()
        except Exception as error:
            raise ConfigError(f"{origin} cannot be imported: {error}") from error
        if isinstance(target, ModuleType):
            registry.add_module(target, origin)
        elif isinstance(target, type):
            registry.add(target, origin)
        else:
            raise ConfigError(f"{origin} is neither a module nor a class")
    return registry


def installed_plugins() -> Registry:
    """A fresh registry with the in-tree plugins and those of installed packages."""
    return _installed().copy()


def _import_file(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"plugin file {path} cannot be read: {reason}") from error
    # The name carries the content's hash: a changed file is a new module, and an unchanged one is not run again.
    name = f"pointsman_user_{path.stem}_{hashlib.sha256(source + str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    if spec is None:  # pragma: no cover - spec_from_loader returns None only for built-ins
        raise ConfigError(f"plugin file {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        # dont_inherit: the file's annotations are its own affair, not this module's `from __future__`.
        code = compile(source, str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - running it is what pluginPaths is for
    except (Exception, SystemExit) as error:  # a reload must not end the process
        del sys.modules[name]
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(error, path)
        raise ConfigError(f"{type(error).__name__}: {error}", source=str(path), line=line) from error
    return module


def _line_in(error: BaseException, path: Path) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
