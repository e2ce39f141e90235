"""``pointsman compare`` and ``pointsman simulate`` as people run them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pointsman.cli.main import run
from pointsman.sim.profiles import find_profile

SMALL = ("--scale", "0.02", "--pods", "2", "--jobs", "1")


Call = Callable[..., "Ran"]


class Ran(msgspec.Struct, frozen=True):
    code: int
    out: str
    err: str


@pytest.fixture
def pointsman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["pointsman", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            run()
        said = capsys.readouterr()
        return Ran(int(str(ended.value.code or 0)), said.out, said.err)

    return call


def trace(folder: Path) -> str:
    file = folder / "small.jsonl"
    rows = (
        {"timestamp": 300 * n, "input_length": 1100, "output_length": 5, "hash_ids": [n % 3, 100 + n % 3, 1000 + n]}
        for n in range(40)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_compare_json_has_a_policy_each(pointsman: Call, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = pointsman("compare", "--qps", "2", *SMALL, "--policy", "round-robin", "--policy", "default", "--json",
                     "--html", str(page))  # fmt: skip
    assert done.code == 0
    data = json.loads(done.out)
    assert list(data["policies"]) == ["round-robin", "default"]
    assert data["qps"] == 2
    assert data["policies"]["default"]["hit_rate"] > data["policies"]["round-robin"]["hit_rate"]
    assert "</html>" in page.read_text()
    assert not done.err


def test_compare_a_ladder(pointsman: Call) -> None:
    done = pointsman("compare", "--ladder", "1,2", *SMALL, "--policy", "default", "--seeds", "2")
    assert done.code == 0
    assert done.out.count("at best") == 3
    assert "±" in done.out


def test_compare_a_trace_with_long_prompts(pointsman: Call, tmp_path: Path) -> None:
    done = pointsman(
        "compare", "--trace", trace(tmp_path), "--speed", "2", "--jobs", "1", "--json", "--policy", "default"
    )
    policy = json.loads(done.out)["policies"]["default"]
    assert policy["success"] == 1.0
    assert policy["requests"] == 40
    assert policy["share_of_achievable"] > 0.5


def test_compare_lists_policies(pointsman: Call) -> None:
    done = pointsman("compare", "--list-policies")
    assert done.code == 0
    assert "round-robin" in done.out
    assert "dynamo" in done.out


def test_simulate_tells_everything(pointsman: Call, tmp_path: Path) -> None:
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    flags = ("--qps", "2", "--scale", "0.02", "--pods", "2")
    text = pointsman("simulate", *flags, "--requests", str(rows), "--html", str(page)).out
    for words in ("TTFT", "where the time went", "hot spot", "hits"):
        assert words in text
    records = [json.loads(line) for line in rows.read_text().splitlines()]
    assert {record["policy"] for record in records} == {"default"}
    data = json.loads(pointsman("simulate", *flags, "--json").out)
    assert data["policy"] == "default"
    assert len(data["pods"]) == 2
    assert data["time_spent_ms"]["decode"] > 0
    assert len(records) > data["requests"] > 0  # the warm-up is among the rows


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policy", "round-robn"), "did you mean 'round-robin'"),
        (("--workload", "breif"), "no workload named 'breif'"),
        (("--qps", "0"), "--qps"),
        (("--qps", "3", "--ladder", "3,4"), "--ladder"),
        (("--ladder", "3,x"), "--ladder: '3,x' is no list of numbers"),
        (("--seeds", "0"), "--seeds"),
        (("--jobs", "-1"), "--jobs"),
        (("--pods", "0"), "--pods"),
        (("--profile", "h200"), "no engine profile named 'h200'"),
        (("--kv-tokens", "3"), "hold no block"),
        (("--speed", "2"), "--speed is about a trace"),
        (("--trace", "none.jsonl"), "none.jsonl"),
        (("--trace", "none.jsonl", "--qps", "2"), "--speed"),
        (("--trace", "none.jsonl", "--slice", "9"), "--slice"),
        (("--html", "/nowhere/at/all.html"), "there is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(pointsman: Call, arguments: tuple[str, ...], words: str) -> None:
    done = pointsman("compare", *arguments)
    assert done.code == 2
    assert words in done.err
    assert not done.out


def test_a_profile_from_a_file(pointsman: Call, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    mine = msgspec.structs.replace(find_profile("qwen3-8b-1xh100", kv_tokens=16_000), name="mine")
    file.write_bytes(msgspec.yaml.encode(mine))
    done = pointsman("simulate", "--profile", str(file), "--qps", "1", "--scale", "0.01", "--pods", "1")
    assert "1 × mine (16,000 tokens of KV cache each)" in done.out
