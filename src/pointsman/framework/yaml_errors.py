"""msgspec's validation messages in words, with the path they speak of and the name that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from msgspec import inspect

Path = tuple[str | int, ...]
"""Keys and list positions from the root of a document down."""

ANY_KEY = "..."
"""msgspec's word for "one of the values of this mapping"."""

_AT = re.compile(r"(?P<text>.*) - at (?:`key` in )?`\$(?P<path>[^`]*)`", re.DOTALL)
_PART = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]|\[(?P<any>\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_CHOICE = re.compile(r"Invalid (?:enum )?value (?P<value>.+)")
_GOT = re.compile(r"Expected `(?P<want>[^`]*)`, got `(?P<got>[^`]*)`")
_LIMIT = re.compile(r"^Expected `(?P<want>\w+)` ")
_WORDS = {"object": "mapping", "array": "list", "str": "string", "int": "whole number", "float": "number"}
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w-]*")


class Problem(NamedTuple):
    """What is wrong, where, and how to mend it."""

    message: str
    path: Path
    hint: str | None


def format_path(path: Path) -> str:
    """A path as people write it: ``plugins[2].parameters.maxQueueLength``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_NAME.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def did_you_mean(name: str, known: Sequence[str]) -> str | None:
    """A hint naming the closest known name, or the known names when they are few; None when there are none."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{by_lower[close[0]]}`?"
    if 0 < len(known) <= 12:
        return "known: " + ", ".join(f"`{candidate}`" for candidate in sorted(known))
    return None


def explain(text: str, data: Any, type_: Any) -> Problem:
    """Take a msgspec validation message apart.

    Args:
        text: the message, which ends with " - at `$.a[0].b`" unless it speaks of the root.
        data: what was converted, to find which entry of a mapping is meant.
        type_: the type it was converted to, to find the names that are known.
    """
    match = _AT.fullmatch(text)
    message, path = (match["text"], _parse_path(match["path"])) if match else (text, ())
    if unknown := _UNKNOWN.fullmatch(message):
        name = unknown["name"]
        return Problem(f"unknown field `{name}`", (*path, name), did_you_mean(name, _field_names(type_, path)))
    if missing := _MISSING.fullmatch(message):
        return Problem(f"the required field `{missing['name']}` is missing", path, None)
    if choice := _CHOICE.fullmatch(message):
        return Problem(f"unknown value {choice['value']}", _cut(path), _choice_hint(choice["value"], type_, path))
    if got := _GOT.fullmatch(message):
        path = _resolve(data, path, got["got"]) if ANY_KEY in path else path
        return Problem(_expected(got["want"], got["got"]), path, _quotes(got["want"], got["got"]))
    message = _LIMIT.sub(lambda found: f"expected a {_WORDS.get(found['want'], found['want'])} ", message)
    return Problem(message[:1].lower() + message[1:], _cut(path), None)


def _parse_path(text: str) -> Path:
    return tuple(int(part["index"]) if part["index"] else part["name"] or ANY_KEY for part in _PART.finditer(text))


def _cut(path: Path) -> Path:
    """The part of the path that is certain."""
    return path[: path.index(ANY_KEY)] if ANY_KEY in path else path


def _expected(want: str, got: str) -> str:
    wanted = " or ".join(_WORDS.get(word, word) for word in want.split(" | "))
    if got == "null":
        return f"expected a {wanted}, got nothing"
    return f"expected a {wanted}, got a {_WORDS.get(got, got)}"


def _quotes(want: str, got: str) -> str | None:
    """YAML reads ``on``, ``1.10`` and ``12:30`` as something else than strings."""
    if "str" in want.split(" | ") and got in {"bool", "int", "float"}:
        return "put the value in quotes"
    return None


def _resolve(data: Any, path: Path, got: str) -> Path:
    """The path with ``[...]`` filled in: the first entry that leads to a value of the type msgspec met."""
    for candidate, value in _walk(data, path):
        if _type_word(value) == got:
            return candidate
    return _cut(path)


def _walk(data: Any, path: Path, done: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not path:
        yield done, data
        return
    part, rest = path[0], path[1:]
    if isinstance(data, dict):
        for key in data if part == ANY_KEY else [part] if part in data else []:
            yield from _walk(data[key], rest, (*done, key))
    elif isinstance(data, list) and isinstance(part, int) and part < len(data):
        yield from _walk(data[part], rest, (*done, part))


def _type_word(value: Any) -> str:
    words = {dict: "object", list: "array", type(None): "null"}
    return words.get(type(value), type(value).__name__)


def _types_at(type_: Any, path: Path) -> list[inspect.Type]:
    """The types a path can lead to, unions taken apart."""
    found = _alternatives(inspect.type_info(type_))
    for part in path:
        found = [deeper for candidate in found for deeper in _alternatives(_step(candidate, part))]
    return found


def _alternatives(type_: inspect.Type | None) -> list[inspect.Type]:
    if isinstance(type_, inspect.UnionType):
        return [deeper for option in type_.types for deeper in _alternatives(option)]
    if isinstance(type_, inspect.Metadata):
        return _alternatives(type_.type)
    return [] if type_ is None else [type_]


def _step(type_: inspect.Type, part: str | int) -> inspect.Type | None:
    if isinstance(type_, inspect.StructType):
        return next((field.type for field in type_.fields if field.encode_name == part), None)
    if isinstance(type_, inspect.DictType):
        return type_.value_type
    if isinstance(type_, inspect.TupleType):
        return type_.item_types[part] if isinstance(part, int) and part < len(type_.item_types) else None
    return getattr(type_, "item_type", None)


def _field_names(type_: Any, path: Path) -> list[str]:
    structs = [found for found in _types_at(type_, path) if isinstance(found, inspect.StructType)]
    return [field.encode_name for struct in structs for field in struct.fields]


def _choice_hint(value: str, type_: Any, path: Path) -> str | None:
    choices: list[str] = []
    for found in _types_at(type_, path):
        if isinstance(found, inspect.LiteralType):
            choices += [str(choice) for choice in found.values]
        elif isinstance(found, inspect.EnumType):
            choices += [str(member.value) for member in found.cls]
    return did_you_mean(value.strip("'"), choices)
