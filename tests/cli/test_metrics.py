from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pointsman.cli.main import app
from pointsman.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"
LOADED = str(DATA / "captures/metrics_a_loaded_0.txt")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert app(["metrics", "parse", *words], result_action="return_value") == 0
    return capsys.readouterr().out


def from_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(run(capsys, *words, "--json"))


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    adapters = ["sql-lora", "summ-lora"]
    found = from_json(capsys, LOADED)
    assert list(found) == ["engine", "ranks", "skipped"]
    ttft, itl = found["ranks"][0].pop("ttft"), found["ranks"][0].pop("itl")
    assert found == {
        "engine": "vllm",
        "ranks": [
            {
                "rank": 0,
                "waiting": 12,
                "running": 8,
                "kv_usage": 0.09393346379647749,
                "block_size": 32,
                "num_blocks": 512,
                "max_num_seqs": None,
                "lora": {"max": 2, "running": adapters, "waiting": adapters},
                "prefix_hits": 1152.0,
                "prefix_queries": 4704.0,
            }
        ],
        "skipped": 0,
    }
    assert (ttft["count"], ttft["sum"]) == (43.0, 2.124089002609253)
    assert ttft["p50"] == pytest.approx(0.017)
    assert itl["p95"] == pytest.approx(0.0236, abs=1e-4)


def test_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    found = from_json(capsys, str(DATA / "metrics/sglang_dp2.txt"))
    assert [(rank["rank"], rank["waiting"]) for rank in found["ranks"]] == [(0, 7), (1, 2)]
    assert found["ranks"][1]["ttft"] is None
    shown = run(capsys, str(DATA / "metrics/sglang_dp2.txt"))
    assert "rank 1" in shown
    assert "2000 of 64 tokens" in shown


def test_an_unused_histogram_has_no_quantiles(capsys: pytest.CaptureFixture[str]) -> None:
    found = from_json(capsys, str(DATA / "captures/metrics_a_idle_fresh.txt"))
    assert found["ranks"][0]["ttft"] == {"count": 0.0, "sum": 0.0, "p50": None, "p95": None}


def test_standard_input_and_bytes_that_are_no_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b'other \xff\r\nvllm:num_requests_waiting{model_name="\xfe"} 3\r\nvllm:num_requests_running NaN\r\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(page)))
    found = from_json(capsys, "-")
    assert (found["ranks"][0]["waiting"], found["skipped"]) == (3, 1)


def test_the_engine_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    page = str(DATA / "metrics/triton_trtllm.txt")
    assert from_json(capsys, page)["engine"] == "triton-tensorrt-llm"
    assert from_json(capsys, page, "--engine", "triton")["ranks"][0]["waiting"] == 77
    assert "engine vllm, 0 lines skipped" in run(capsys, LOADED, "--engine", "auto")


def test_engines_of_the_users(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, configs = tmp_path / "page.txt", tmp_path / "engines.yaml"
    page.write_text("atom:waiting 3\n")
    configs.write_text("engineConfigs: [{name: atom, queuedRequestsSpec: 'atom:waiting'}]")
    assert from_json(capsys, str(page), "--engine-configs", str(configs))["engine"] == "atom"
    configs.write_text("- {name: atom, queuedRequestsSpec: 'atom waiting'}")
    with pytest.raises(ConfigError, match=r"engines\.yaml: engineConfigs\[0\]\.queuedRequestsSpec: .*no metric"):
        run(capsys, str(page), "--engine-configs", str(configs))
    with pytest.raises(ConfigError, match="cannot be read"):
        run(capsys, str(page), "--engine-configs", str(tmp_path / "none"))


def test_pages_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("process_cpu_seconds_total 1\n")
    with pytest.raises(ConfigError, match=r"page\.txt: no engine's metrics page \(known engines: vllm, "):
        run(capsys, str(page))
    with pytest.raises(ConfigError, match="nothing of vllm on this page"):
        run(capsys, str(page), "--engine", "vllm")
    with pytest.raises(ConfigError, match=r"nothing of sglang on this page .*looks like vllm"):
        run(capsys, LOADED, "--engine", "sglang")
    page.write_text("vllm:prompt_tokens_total 1\n")
    with pytest.raises(ConfigError, match="a page of vllm without requests"):
        run(capsys, str(page))
    with pytest.raises(ConfigError, match=r"--engine: 'foo' is no engine .*known: auto, vllm"):
        run(capsys, LOADED, "--engine", "foo")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        run(capsys, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        run(capsys, str(tmp_path))
