"""The commands about records, tuning and sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.lab.lab_builders import shared_prefixes
from tests.lab.record_builders import record

from pointsman.app.picker import check_config
from pointsman.cli.main import app
from pointsman.errors import ConfigError
from pointsman.lab.options import FleetOptions

SMALL = ["--workload", "bursty", "--scale", "0.1", "--qps", "4"]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    record(tmp_path, shared_prefixes(), FleetOptions(pods=3))
    return tmp_path / "records.jsonl"


def test_replay_prints_measured_simulated_and_candidates(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        app(["replay", str(recorded), "--policy", "round-robin", "--jobs", "1", "--json"], result_action="return_value")
        == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in data["rows"]] == ["measured", "as recorded, simulated", "round-robin"]
    assert (data["pods"], data["requests"], data["policy"]) == (3, 30, "policy.yaml")
    assert app(["replay", str(recorded), "--pods", "2", "--jobs", "1"], result_action="return_value") == 0
    out = capsys.readouterr().out
    assert "as recorded" in out
    assert "2 pods" in out


def test_tune_prints_a_policy_that_loads_and_says_what_it_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned.yaml"
    arguments = ["tune", "llm-d", *SMALL, "--variants", "3", "--pods", "2", "--jobs", "1"]
    assert app([*arguments, "--out", str(out)], result_action="return_value") == 0
    assert "p95_ttft" in out.read_text().splitlines()[0]
    assert check_config(str(out)).scheduler.profiles
    said = capsys.readouterr()
    assert "mprovement" in said.err
    assert app(arguments, result_action="return_value") == 0
    printed = capsys.readouterr().out
    assert printed == out.read_text(), "the same seed, the same policy"
    assert yaml.safe_load(printed)["kind"] == "EndpointPickerConfig"


def test_tune_as_json(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", "default", "--records", str(recorded), "--goal", "mean_ttft", "--variants", "2", "--jobs", "1"]
    assert app([*arguments, "--json"], result_action="return_value") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["goal"] == "mean_ttft"
    assert isinstance(data["improved"], bool)
    assert data["config"]["schedulingProfiles"]


def test_what_if_names_the_smallest_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["what-if", "--pods", "1,3", "--speed", "1,2", *SMALL, "--goal", "success>=0.5", "--jobs", "1"]
    assert app([*arguments, "--json"], result_action="return_value") == 0
    data = json.loads(capsys.readouterr().out)
    assert [(cell["speed"], cell["pods"]) for cell in data["cells"]] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert [one["fleet"]["pods"] for one in data["smallest"]] == [1, 1]
    assert app(arguments, result_action="return_value") == 0
    assert "Enough for success>=0.5 at ×1: 1 pods" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "nothing.jsonl"], "no such file"),
        (["what-if", "--goal", "fast"], "--goal"),
        (["what-if", "--pods", "1.5"], "--pods"),
        (["what-if", "--pods", "two"], "--pods"),
        (["tune", "--goal", "speed"], "--goal"),
        (["tune", "no-such-policy"], "no-such-policy"),
        (["tune", "--space", "nothing.yaml"], "nothing.yaml"),
        (["tune", "--records", "a", "--trace", "b"], "not both"),
        (["epp", "--records", "x", "--records-sample", "2"], "--records-sample"),
        (["epp", "--records", "x", "--records-max-mb", "0"], "--records-max-mb"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        app(arguments, result_action="return_value")
