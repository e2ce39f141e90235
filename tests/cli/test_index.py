from __future__ import annotations

import json
from pathlib import Path

import pytest

from pointsman.cli.main import app
from pointsman.errors import ConfigError

CAPTURES = Path(__file__).parents[1] / "data/captures"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert app(["index", *words], result_action="return_value") == 0
    return capsys.readouterr().out


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    request = json.loads((CAPTURES / "requests.jsonl").read_text().splitlines()[3])
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([request["prompt_token_ids"], [1]]))
    return path


def test_replay(capsys: pytest.CaptureFixture[str], prompts: Path) -> None:
    events = str(CAPTURES / "events_ab.jsonl")
    found = json.loads(run(capsys, "replay", events, "--json"))
    assert list(found) == ["sources"]
    assert found["sources"]["pod-b"]["0"]["batches"] == 395
    assert "matched" not in found["sources"]["pod-b"]["0"]
    found = json.loads(run(capsys, "replay", events, "--json", "--query", str(prompts)))
    assert found["matched"] == {name: ranks["0"]["matched"] for name, ranks in found["sources"].items()}
    assert "187" in run(capsys, "replay", events)


def test_hash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vectors = json.loads((CAPTURES / "hash_vectors.json").read_text())
    vector = next(
        v for v in vectors["vllm"] if (v["algo"], v["PYTHONHASHSEED"], v["case"]) == ("sha256_cbor", "0", "plain")
    )
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([vectors["tokens"]]))
    words = ("--algo", "sha256_cbor", "--seed", "0", "--block-size", str(vector["block_size"]), str(path))
    assert json.loads(run(capsys, "hash", *words))[0][: len(vector["int64"])] == vector["int64"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"a": 1}]')
    with pytest.raises(ConfigError, match="list of lists"):
        app(["index", "hash", str(bad)])
    with pytest.raises(ConfigError, match=r"bad\.json:1: no recorded message"):
        app(["index", "replay", str(bad)])
    with pytest.raises(ConfigError, match="cannot be read"):
        app(["index", "replay", str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="cannot be read"):
        app(["index", "hash", str(tmp_path / "none")])
