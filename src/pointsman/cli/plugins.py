"""``pointsman plugins``."""

from __future__ import annotations

import inspect
import sys
import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from pointsman.cli.common import print_json
from pointsman.framework.plugin import (
    Admitter,
    AnswerHeaders,
    CostScorer,
    DataProducer,
    Filter,
    Picker,
    Plugin,
    ProfileHandler,
    Scorer,
)
from pointsman.framework.registry import Registry, installed_plugins

KINDS: tuple[tuple[str, type[Any]], ...] = (
    ("filter", Filter),
    ("scorer", Scorer),
    ("cost", CostScorer),
    ("picker", Picker),
    ("profile handler", ProfileHandler),
    ("producer", DataProducer),
    ("admitter", Admitter),
    ("answer header", AnswerHeaders),
)


def plugins(
    name: Annotated[str | None, Parameter(help="A plugin's type; all of them when left out.")] = None,
    *,
    file: Annotated[tuple[Path, ...], Parameter(help="Also look at a plugin file of yours.", negative=())] = (),
    as_json: Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())] = False,
) -> int:
    """List the plugins, or explain one: parameters, defaults, formula, inputs.

    ```console
    pointsman plugins
    pointsman plugins load-aware
    pointsman plugins my-scorer --file my_scorer.py
    ```
    """
    registry = installed_plugins()
    for path in file:
        registry.add_file(path)
    if name is not None:
        data = describe(registry, name)
        print_json(data) if as_json else _print_one(data)
        return 0
    rows = [describe(registry, type_string) for type_string in registry]
    print_json({"plugins": rows}) if as_json else _print_all(rows)
    return 0


def kinds_of(cls: type[Plugin[Any]]) -> list[str]:
    """What a plugin class is: some are two things."""
    return [kind for kind, base in KINDS if issubclass(cls, base)]


def describe(registry: Registry, type_string: str) -> dict[str, Any]:
    """Everything that is known of a plugin type, as plain data.

    Raises:
        ConfigError: if there is no such type.
    """
    cls = registry.get(type_string)
    return {
        "type": type_string,
        "kinds": kinds_of(cls),
        "summary": _summary(cls),
        "formula": cls.formula,
        "inputs": cls.inputs,
        "parameters": _parameters(cls.Params),
        "origin": registry.origin(type_string),
    }


def _summary(cls: type[Plugin[Any]]) -> str:
    """First paragraph of the module's docstring, or of the class's in a module with several plugins."""
    module = sys.modules[cls.__module__]
    classes = [value for value in vars(module).values() if isinstance(value, type) and value.__dict__.get("type")]
    alone = sum(value.__module__ == module.__name__ for value in classes) == 1
    text = (inspect.getdoc(module) if alone else None) or inspect.getdoc(cls) or ""
    return text.split("\n\n", maxsplit=1)[0].replace("\n", " ").replace("``", "")


def _parameters(params: type[msgspec.Struct]) -> list[dict[str, Any]]:
    hints = typing.get_type_hints(params, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(params):
        default: Any = field.default
        if default is msgspec.NODEFAULT:
            default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else None
        meta = [m for m in getattr(hints[field.name], "__metadata__", ()) if isinstance(m, msgspec.Meta)]
        rows.append(
            {
                "name": field.encode_name,
                "type": type_name(hints[field.name]),
                "default": msgspec.to_builtins(default),
                "required": field.required,
                "description": " ".join(m.description for m in meta if m.description),
            }
        )
    return rows


def type_name(hint: Any) -> str:
    """A type the way a page shows it: without bounds, alternatives with bars."""
    base = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if typing.get_origin(base) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(base))
    if typing.get_args(base) and not isinstance(base, type):
        return " | ".join(type_name(part) for part in typing.get_args(base))
    return getattr(base, "__name__", str(base))


def _print_all(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("type", "kind", "what it does"):
        table.add_column(column, no_wrap=column != "what it does")
    order = [kind for kind, _ in KINDS]
    for row in sorted(rows, key=lambda row: (order.index(row["kinds"][0]), row["type"])):
        table.add_row(row["type"], ", ".join(row["kinds"]), row["summary"])
    Console(highlight=False, markup=False).print(table)


def _print_one(data: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"{data['type']}  ({', '.join(data['kinds'])})", style="bold")
    console.print(data["summary"])
    for title in ("formula", "inputs", "origin"):
        if data[title]:
            console.print(f"\n{title}: {data[title]}")
    if not data["parameters"]:
        console.print("\nno parameters")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("parameter", "type", "default", "meaning"):
        table.add_column(column, no_wrap=column == "parameter")
    for row in data["parameters"]:
        default = "(required)" if row["required"] else msgspec.json.encode(row["default"]).decode()
        table.add_row(row["name"], row["type"], default, row["description"])
    console.print()
    console.print(table)
