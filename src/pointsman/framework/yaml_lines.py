"""YAML files whose mistakes are reported with line, field and "did you mean".

A file is read in two passes. The first looks at the parser's events only and refuses what would be dangerous or
surprising to build (several documents, deep nesting, too many nodes); the second composes the node graph, from which
plain Python values are built. The graph is kept, so that any path in the data can be traced back to its line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
import yaml

from pointsman.errors import ConfigError
from pointsman.framework.yaml_errors import Path, explain, format_path

T = TypeVar("T")

MAX_NODES = 250_000
"""Most values a document may hold, aliases written out. A 1 MiB file of endpoints stays below it."""
MAX_DEPTH = 64
"""Deepest nesting; recursion stays far from Python's limit."""

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SCALARS = frozenset(_TAG + kind for kind in ("null", "bool", "int", "float", "str"))
# Dates and "=" stay strings: only what JSON knows is of use in a configuration.
_UNWANTED = frozenset((_TAG + "timestamp", _TAG + "value"))


class _Loader(yaml.CSafeLoader):
    """The safe loader with JSON's types only."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _UNWANTED]
    for first, pairs in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


class Document:
    """One parsed file.

    Attributes:
        data: plain Python: dict with string keys, list, str, int, float, bool, None. None when the file is empty.
        source: the file's name, for messages.
    """

    __slots__ = ("_root", "data", "source")

    def __init__(self, data: Any, source: str, root: yaml.Node | None = None) -> None:
        self.data, self.source, self._root = data, source, root

    def line(self, path: Path) -> int | None:
        """The 1-based line of the deepest part of ``path`` that exists; None when the document is empty."""
        node = self._root
        if node is None:
            return None
        line = _line(node)
        for part in path:
            step = _child(node, part)
            if step is None:
                break
            line, node = step
        return line

    def error(self, message: str, path: Path = (), hint: str | None = None) -> ConfigError:
        """A ConfigError that points at ``path``; raise it."""
        field = format_path(path) or None
        return ConfigError(message, source=self.source, line=self.line(path), field=field, hint=hint)


def load_yaml(text: str, source: str) -> Document:
    """Parse one YAML (or JSON) document.

    Raises:
        ConfigError: with a line, when the text is not YAML, holds several documents, a key twice, a key that is not a
            string, a tag (``!!python/...``), more than MAX_NODES values or deeper nesting than MAX_DEPTH.
    """
    try:
        _check_events(text, source)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            data = None if root is None else _Builder(loader, source).build(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        words = (error.context, error.problem)
        raise ConfigError(
            "not valid YAML: " + ", ".join(word for word in words if word), source=source, line=line
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise ConfigError(f"not valid YAML: {error.reason}", source=source, line=line) from error
    except UnicodeError as error:
        raise ConfigError(f"not valid text: {error}", source=source) from error
    return Document(data, source, root)


def convert(document: Document, type: type[T], path: Path = ()) -> T:  # noqa: A002
    """The part of ``document`` at ``path`` as ``type``, checked by msgspec.

    Raises:
        ConfigError: with source, line, field and, where there is one, the name that was probably meant.
    """
    data = document.data
    for part in path:
        data = data[part]
    try:
        return msgspec.convert(data, type)
    except msgspec.ValidationError as error:
        problem = explain(str(error), data, type)
        if document.data is None:
            raise ConfigError("the file is empty", source=document.source, line=1) from error
        raise document.error(problem.message, (*path, *problem.path), problem.hint) from error


def _check_events(text: str, source: str) -> None:
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            nodes += 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES or documents > 1:
            mark = event.start_mark
            raise ConfigError(_too_much(depth, nodes), source=source, line=mark.line + 1 if mark else None)


def _too_much(depth: int, nodes: int) -> str:
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if nodes > MAX_NODES:
        return f"holds more than {MAX_NODES} values"
    return "a second document begins here; only one per file is read"


class _Builder:
    """Nodes to plain values. Aliases are written out and counted, so a small file cannot grow without bound."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self._loader, self._source = loader, source
        self._left = MAX_NODES

    def build(self, node: yaml.Node, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error(node, f"holds more than {MAX_NODES} values once aliases are written out")
        if depth > MAX_DEPTH:
            raise self._error(node, f"nested deeper than {MAX_DEPTH} levels (or an alias contains itself)")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node)
        raise self._error(node, f"the tag {node.tag.replace(_TAG, '!!')} is not supported")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _TAG + "str":
            return node.value
        try:
            value = self._loader.construct_object(node)
        except (ValueError, KeyError, IndexError) as error:  # PyYAML lets these through for `!!int x`
            raise self._error(node, f"not a valid {node.tag.removeprefix(_TAG)}: {node.value[:40]!r}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(node, f"not a finite number: {node.value[:40]}")
        return value

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for other in _merged(value_node):
                    for key, value in self._merge(other, depth).items():
                        merged.setdefault(key, value)
                continue
            key = self._key(key_node)
            if key in own:
                raise self._error(key_node, f"the key {key!r} is given twice in one mapping")
            own[key] = self.build(value_node, depth + 1)
        return {**merged, **own} if merged else own

    def _merge(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        value = self.build(node, depth + 1)
        if not isinstance(value, dict):
            raise self._error(node, "only a mapping can be merged with <<")
        return value

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key must be a string, not a list or mapping")
        if node.tag != _TAG + "str":
            raise self._error(node, f"the key {node.value!r} is not a string", hint="put it in quotes")
        return str(node.value)

    def _error(self, node: yaml.Node, message: str, hint: str | None = None) -> ConfigError:
        return ConfigError(message, source=self._source, line=_line(node), hint=hint)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _merged(node: yaml.Node) -> list[yaml.Node]:
    """What a ``<<`` names: one mapping or a list of them, the first winning."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


def _child(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    """The line and node one step down; a mapping entry's line is its key's."""
    if isinstance(node, yaml.SequenceNode):
        if isinstance(part, int) and part < len(node.value):
            return _line(node.value[part]), node.value[part]
    elif isinstance(node, yaml.MappingNode):
        return next((found for key, found in _entries(node) if key == part), None)
    return None


def _entries(node: yaml.MappingNode) -> Iterator[tuple[str, tuple[int, yaml.Node]]]:
    """Own entries first, then merged ones: the order in which they win."""
    for key, value in node.value:
        if key.tag != _MERGE:
            yield key.value, (_line(key), value)
    for key, value in node.value:
        if key.tag == _MERGE:
            for other in _merged(value):
                if isinstance(other, yaml.MappingNode):
                    yield from _entries(other)
