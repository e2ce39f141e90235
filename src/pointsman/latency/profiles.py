"""Finds a latency model by name, or in a file that ``pointsman calibrate`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.errors import ConfigError
from pointsman.framework.yaml_lines import Document, convert, load_yaml
from pointsman.latency.model import LATENCY_PROFILES, LatencyModel

SUFFIXES = (".yaml", ".yml", ".json")
_Ms = Annotated[float, Meta(ge=0, le=1e6)]


class EngineCoefficients(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an engine profile that the cost model needs, under its names there; milliseconds."""

    name: str = ""
    prefill_fixed: _Ms
    prefill_per_token: _Ms
    prefill_quadratic: _Ms
    prefill_cached: _Ms
    decode_base: _Ms
    decode_per_request: _Ms
    decode_per_context_token: _Ms

    def latency_model(self, source: str = "") -> LatencyModel:
        """The same as a cost model."""
        return LatencyModel(
            prefill_base=self.prefill_fixed,
            prefill_per_token=self.prefill_per_token,
            prefill_per_token_pair=self.prefill_quadratic,
            prefill_per_cached_pair=self.prefill_cached,
            decode_base=self.decode_base,
            decode_per_request=self.decode_per_request,
            decode_per_context_token=self.decode_per_context_token,
            source=source or f"engine profile {self.name}",
        )


class _Calibration(msgspec.Struct, frozen=True):
    """What ``pointsman calibrate --json`` prints."""

    profile: EngineCoefficients


def find_latency_model(name_or_path: str, base: Path | None = None) -> LatencyModel:
    """A built-in model, or one from a file.

    Args:
        name_or_path: one of ``LATENCY_PROFILES``, or a file ending in .yaml, .yml or .json.
        base: folder that a relative path starts from; None: the working directory.

    Raises:
        ConfigError: if there is no such model, or the file is none: with file, line and field.
    """
    found = LATENCY_PROFILES.get(name_or_path)
    if found is not None:
        return found
    if not name_or_path.endswith(SUFFIXES):
        hint = f"one of {', '.join(sorted(LATENCY_PROFILES))}, or a file that pointsman calibrate wrote"
        raise ConfigError(f"unknown latency profile {name_or_path!r}", hint=hint)
    path = (base or Path()) / name_or_path
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "write it with pointsman calibrate --output; relative paths start from the configuration's folder"
        raise ConfigError(f"cannot read the latency profile: {error}", hint=hint) from error
    return _from_document(load_yaml(text, str(path)))


def _from_document(document: Document) -> LatencyModel:
    calibration = isinstance(document.data, dict) and "profile" in document.data
    found = convert(document, _Calibration).profile if calibration else convert(document, EngineCoefficients)
    if found.prefill_per_token <= 0 or found.decode_base <= 0:
        field = "prefill_per_token" if found.prefill_per_token <= 0 else "decode_base"
        place = ("profile", field) if calibration else (field,)
        raise document.error("must be above 0", place, "calibrate the engine again")
    return found.latency_model(f"{document.source}: engine profile {found.name}")
