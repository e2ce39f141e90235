from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.lab.traces.trace_builders import CONTENT, write

from pointsman.cli.main import app
from pointsman.errors import ConfigError, TraceError


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert app(["trace", "stats", *words], result_action="return_value") == 0
    return capsys.readouterr().out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, CONTENT["mooncake"]))
    found = json.loads(run(capsys, path, "--json", "--cache-tokens", "3000", "--cache-tokens", "1000"))
    assert (found["format"], found["requests"], found["duration"]) == ("mooncake", 3, 6.5)
    assert list(found["reuse"]["lru"]) == ["1000", "3000"]
    assert found["reuse"]["hit_tokens"] == 1024


@pytest.mark.parametrize("name", list(CONTENT))
def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    shown = run(capsys, str(write(tmp_path, CONTENT[name])), "--format", name)
    assert shown.startswith(f"{name}: ")
    assert "input tokens" in shown
    assert "reuse" in shown


def test_bad_input(tmp_path: Path) -> None:
    path = str(write(tmp_path, CONTENT["azure"]))
    with pytest.raises(TraceError, match="it looks like --format azure"):
        app(["trace", "stats", path, "--format", "otel"], result_action="return_value")
    with pytest.raises(ConfigError, match="--cache-tokens: must be 1 or more"):
        app(["trace", "stats", path, "--cache-tokens", "0"], result_action="return_value")
