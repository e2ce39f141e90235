"""Objectives and rewrites from a file: the manifests that Kubernetes takes, without Kubernetes.

Several YAML documents in one file, as ``kubectl apply`` reads them. Documents of other kinds are passed over, so that a
whole sample can be given. Unlike the API server's objects, which it has checked, a field that nobody knows is refused:
a mistyped ``priority`` would otherwise count for nothing, in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeVar

import msgspec

from pointsman.errors import ConfigError
from pointsman.framework.yaml_errors import Path
from pointsman.framework.yaml_lines import Document, convert, load_yaml
from pointsman.kube.objects import LEGACY_GROUP, LLMD_GROUP, POOL_GROUP, Objective, Rewrite
from pointsman.kube.policies import PoolName, make_policies
from pointsman.requestcontrol.policies import ModelPolicies

MAX_FILE_BYTES = 1024 * 1024
GROUPS = (LLMD_GROUP, LEGACY_GROUP)

T = TypeVar("T", Objective, Rewrite)

# A marker at the beginning of a line ends a document whatever it stands in: YAML allows it nowhere else.
_MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_ANY_POOL = PoolName("", POOL_GROUP, None)


def parse_policies(text: str, source: str, pool: PoolName = _ANY_POOL) -> ModelPolicies:
    """Read a file of InferenceObjective and InferenceModelRewrite manifests.

    Args:
        text: the content.
        source: the file's name, for messages.
        pool: whose policies count; by default all do, whichever pool they name.

    Raises:
        ConfigError: with line and field, on anything that is not as it should be.
    """
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes", source=source)
    objectives: dict[str, Objective] = {}
    rewrites: dict[str, Rewrite] = {}
    for document in _documents(text, source):
        kind = _kind(document)
        if kind == "InferenceObjective":
            _add(objectives, document, Objective)
        elif kind == "InferenceModelRewrite":
            _add(rewrites, document, Rewrite)
    # Files have no creation times: the order in the file is the order of precedence.
    ordered = [_aged(item, index) for index, item in enumerate(rewrites.values())]
    return make_policies(pool, [objectives.values()], [ordered])


def _documents(text: str, source: str) -> Iterator[Document]:
    starts = [0, *(found.start() for found in _MARKER.finditer(text)), len(text)]
    for start, end in pairwise(starts):
        above = "\n" * text.count("\n", 0, start)  # so that lines are counted as in the file
        document = load_yaml(above + _MARKER.sub("   ", text[start:end]), source)
        if document.data is not None:
            yield document


def _kind(document: Document) -> str:
    data = document.data
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("apiVersion", "kind")):
        raise document.error("a manifest begins with apiVersion and kind")
    group = data["apiVersion"].rpartition("/")[0]
    kind: str = data["kind"]
    if group == LLMD_GROUP and kind not in {"InferenceObjective", "InferenceModelRewrite", "EndpointPickerConfig"}:
        hint = "InferenceObjective or InferenceModelRewrite?"
        raise document.error(f"{kind!r} is not a kind of {group}", ("kind",), hint)
    if kind in {"InferenceObjective", "InferenceModelRewrite"} and group not in GROUPS:
        raise document.error(f"the group {group!r} has no {kind}", ("apiVersion",), f"write {LLMD_GROUP}/v1alpha2")
    return kind


def _add(found: dict[str, T], document: Document, kind: type[T]) -> None:
    item = convert(document, kind)
    unknown = _unknown_field(document.data.get("spec"), msgspec.to_builtins(item.spec), ("spec",))
    if unknown is not None:
        raise document.error(f"{unknown[-1]!r} is not a known field", unknown)
    if item.metadata.name in found:
        raise document.error(f"there are two of the name {item.metadata.name!r}", ("metadata", "name"))
    found[item.metadata.name] = item


def _aged(item: Rewrite, index: int) -> Rewrite:
    metadata = msgspec.structs.replace(item.metadata, creation_timestamp=f"{index:06d}")
    return msgspec.structs.replace(item, metadata=metadata)


def _unknown_field(given: Any, understood: Any, path: Path) -> Path | None:
    """The first field below ``path`` that was given and not understood."""
    if isinstance(given, dict) and isinstance(understood, dict):
        unknown = next((key for key in given if key not in understood), None)
        if unknown is not None:
            return (*path, unknown)
        parts: list[tuple[str | int, Any, Any]] = [(key, given[key], understood[key]) for key in given]
    elif isinstance(given, list) and isinstance(understood, list):
        parts = [(index, *pair) for index, pair in enumerate(zip(given, understood, strict=True))]
    else:
        return None
    found = (_unknown_field(below, known, (*path, part)) for part, below, known in parts)
    return next((one for one in found if one is not None), None)
