"""Latency profiles: by name, and from files that calibrate wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pointsman.cli.calibrate import profile_text
from pointsman.errors import ConfigError
from pointsman.latency.model import LATENCY_PROFILES
from pointsman.latency.profiles import find_latency_model
from pointsman.sim.profiles import PROFILES

ENGINE = PROFILES["qwen3-8b-1xh100"]
FIELDS: dict[str, Any] = msgspec.to_builtins(ENGINE)


@pytest.mark.parametrize("name", LATENCY_PROFILES)
def test_by_name(name: str) -> None:
    assert find_latency_model(name) is LATENCY_PROFILES[name]


def test_a_name_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"unknown latency profile 'abacus' \(one of .*, or a file that pointsman"):
        find_latency_model("abacus")


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_what_calibrate_writes(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"mine{suffix}").write_text(profile_text(ENGINE))
    model = find_latency_model(f"mine{suffix}", tmp_path)
    assert model.prefill_ms(1000, 500) == pytest.approx(4.5 + 18.6 + 0.49 + 0.49)
    assert model.decode_step_ms(10, 10_000) == pytest.approx(6.6 + 0.121 + 0.47)
    assert model.source == f"{tmp_path}/mine{suffix}: engine profile qwen3-8b-1xh100"


def test_what_calibrate_prints_as_json(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"profile": FIELDS, "fit": None, "latency_model": {}}))
    assert find_latency_model(str(tmp_path / "mine.json")).prefill_base == 4.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefill_fixed": None}, r":\d+: prefill_fixed: expected a number, got nothing"),
        ({"prefill_quadratic": -1.0}, r":\d+: prefill_quadratic: expected a number >= 0"),
        ({"decode_base": "fast"}, r":\d+: decode_base: expected a number, got a string"),
        ({"decode_base": 0}, r":\d+: decode_base: must be above 0"),
        ({"prefill_per_token": 0}, r":\d+: prefill_per_token: must be above 0"),
        ({"prefill_per_token": 1e9}, r":\d+: prefill_per_token: expected a number <= 1000000"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(FIELDS | change, sort_keys=False))
    with pytest.raises(ConfigError, match=f"bad.yaml{message}"):
        find_latency_model(str(path))


def test_a_missing_field(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nprefill_fixed: 1\n")
    with pytest.raises(ConfigError, match=r"bad.yaml:1: the required field `prefill_per_token` is missing"):
        find_latency_model(str(path))


@pytest.mark.parametrize("text", ["", "[]", "{", "profile: 3", "3"])
def test_no_profile_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad.yaml"):
        find_latency_model(str(path))


@pytest.mark.parametrize("name", ["gone.yaml", "folder.yaml", "latin.yaml"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4")
    with pytest.raises(ConfigError, match=r"cannot read the latency profile: .*pointsman calibrate --output"):
        find_latency_model(name, tmp_path)
