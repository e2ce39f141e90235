from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.lab.test_calibrate import pages

from pointsman.cli.main import app
from pointsman.errors import PointsmanError
from pointsman.sim.profiles import find_profile

QWEN = find_profile("qwen3-32b-2xh100")


def saved(folder: Path) -> list[str]:
    flags = []
    for name, page in zip(("before", "after"), pages(QWEN), strict=True):
        path = folder / f"{name}.txt"
        path.write_text(page, "utf-8")
        flags += ["--metrics", str(path)]
    return flags


def call(*words: str) -> object:
    return app(["calibrate", *words], result_action="return_value")


def test_two_pages_give_a_profile_that_other_commands_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    assert call(*saved(tmp_path), "--output", str(file)) == 0
    printed = capsys.readouterr()
    assert printed.out == file.read_text("utf-8")
    assert "against the base profile: decode x" in printed.err
    assert find_profile(str(file)).name == "calibrated"


def test_json_has_the_picker_s_coefficients_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*saved(tmp_path), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["latency_model"]["decode_base"] == pytest.approx(data["profile"]["decode_base"])
    assert data["scales"]["decode"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --url, or --metrics twice"),
        (["--metrics", "a"], "given twice"),
        (["--url", "http://x", "--repeats", "0"], "above 0"),
        (["--metrics", "a", "--metrics", "b"], "cannot read the metrics page"),
        (["--url", "http://127.0.0.1:1"], "cannot be reached"),
        (["--url", "http://x", "--base", "nothing"], "no engine profile named"),
    ],
)
def test_wrong_calls_say_what_is_wanted(words: list[str], message: str) -> None:
    with pytest.raises(PointsmanError, match=message):
        call(*words)
