"""The command line as people run it: exit codes, words, never a stack trace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest
import structlog
import yaml

from pointsman.app.picker import check_config
from pointsman.cli.main import run
from pointsman.cli.plugins import describe
from pointsman.framework.loader import preset_names
from pointsman.framework.registry import installed_plugins

BAD = """\
filters:
  - type: queue-depth
    maxQueueLenght: 5
scorers:
  - type: load-awar
"""


class Ran(msgspec.Struct, frozen=True):
    code: int
    out: str
    err: str


@cache
def pointsman(*arguments: str) -> Ran:
    """Run the command in a process of its own."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", *arguments],
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """Run the command in this process: the same way in, without the half second that a new one takes."""
    monkeypatch.setattr(sys, "argv", ["pointsman", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        run()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, *capsys.readouterr())


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


# ---- as processes


def test_help_names_every_command() -> None:
    ran = pointsman("--help")
    assert ran.code == 0
    for command in ("config", "demo", "envoy-config", "epp", "plugins", "sim", "up"):
        assert f" {command} " in ran.out
    assert not ran.err


def test_a_good_configuration_is_said_to_be_good() -> None:
    ran = pointsman("config", "check", "brief")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("ok: preset:brief: 3 filters")


def test_a_bad_configuration_is_told_by_line_and_field(bad_file: Path) -> None:
    ran = pointsman("config", "check", str(bad_file))
    assert (ran.code, ran.out) == (2, "")
    assert f"error: {bad_file}:3: filters[0].maxQueueLenght: unknown " in ran.err
    assert re.search(r"did you mean .maxQueueLength.\?", ran.err)
    assert f"error: {bad_file}:5: " in ran.err
    assert re.search(r"did you mean .load-aware", ran.err)


def test_what_config_show_prints_loads_again_as_it_is(tmp_path: Path) -> None:
    ran = pointsman("config", "show", "brief")
    assert (ran.code, ran.err) == (0, "")
    path = tmp_path / "shown.yaml"
    path.write_text(ran.out)
    assert check_config(str(path)).effective() == check_config("brief").effective() == yaml.safe_load(ran.out)


def test_an_unknown_plugin_is_exit_code_2_with_a_hint() -> None:
    ran = pointsman("plugins", "nope")
    assert (ran.code, ran.out) == (2, "")
    assert re.fullmatch(r"error: unknown plugin type .nope. \(`pointsman plugins` lists the known types\)\n", ran.err)


def test_no_endpoints_are_exit_code_2_with_a_hint() -> None:
    ran = pointsman("epp", "--port", "0", "--admin-port", "0")
    assert ran.code == 2
    assert "error: give endpoints (--endpoint http://10.0.0.1:8000 ..., or --endpoints-file FILE)" in ran.err


def test_an_unknown_flag_is_named() -> None:
    ran = pointsman("epp", "--nope")
    assert ran.code != 0
    assert "--nope" in ran.out + ran.err


# ---- inside this process


@pytest.mark.parametrize("name", ["[bold]odd.yaml", "a[/]b.yaml", "x\\[red]y.yaml", "[1].yaml"])
def test_brackets_in_a_name_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    path = tmp_path.joinpath(*name.split("/"))
    path.parent.mkdir(exist_ok=True)
    path.write_text("selection: {type: random}\n")
    ran = inside(monkeypatch, capsys, "config", "check", str(path))
    assert (ran.code, ran.out.startswith(f"ok: {path}: 0 filters")) == (0, True)
    path.write_text("nonsense: 1\n")
    ran = inside(monkeypatch, capsys, "config", "check", str(path))
    assert ran.code == 2
    assert ran.err.startswith(f"error: {path}:1: nonsense: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("config", "check", "no-such.yaml"), ["no-such.yaml", "no such file or preset", "presets: brief"]),
        (("config", "check", "breif"), ["did you mean the preset", "brief"]),
        (("config", "show", "breif"), ["did you mean the preset", "brief"]),
        (("plugins", "load-awar"), ["did you mean", "load-aware"]),
        (("plugins", "--file", "no-such.py"), ["plugin file no-such.py cannot be read"]),
        (("envoy-config",), ["give endpoints", "--endpoint http://10.0.0.1:8000", "--endpoints-file"]),
        (("envoy-config", "--eds", "--eds-path", "/x.json"), ["give endpoints"]),
        (("envoy-config", "--endpoint", "not a url"), ["--endpoint"]),
        (("envoy-config", "--endpoints-file", "no-such.yaml"), ["no-such.yaml"]),
        (("epp", "--endpoint", "http://127.0.0.1:1", "--kv-snapshot", "no/such/file"), ["--kv-snapshot", "no folder"]),
        (("up", "--endpoint", "http://127.0.0.1:1", "--kv-snapshot", "."), ["--kv-snapshot", "is a folder"]),
        (("up", "--config", "breif"), ["did you mean the preset", "brief"]),
    ],
)
def test_bad_input_is_exit_code_2_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = inside(monkeypatch, capsys, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert all(word in ran.err for word in words), ran.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nope",), "nope"),
        (("config", "check"), "requires an argument"),
        (("envoy-config", "--port", "many"), "many"),
        (("epp", "--log-level", "loud"), "loud"),
    ],
)
def test_wrong_usage_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], word: str
) -> None:
    ran = inside(monkeypatch, capsys, *arguments)
    assert ran.code != 0
    assert word in ran.out + ran.err


def test_the_check_as_json_has_every_error_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bad_file: Path
) -> None:
    ran = inside(monkeypatch, capsys, "config", "check", str(bad_file), "--json")
    assert (ran.code, ran.err) == (2, "")
    found = json.loads(ran.out)
    assert found["ok"] is False
    assert [(error["line"], error["field"]) for error in found["errors"]] == [
        (3, "filters[0].maxQueueLenght"),
        (5, "scorers[0].type"),
    ]
    assert {error["source"] for error in found["errors"]} == {str(bad_file)}
    ran = inside(monkeypatch, capsys, "config", "check", "default", "--json")
    assert (ran.code, json.loads(ran.out)) == (0, {"ok": True, "notes": []})


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_listed_good_and_shown_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], preset: str
) -> None:
    assert preset in inside(monkeypatch, capsys, "config", "presets").out.splitlines()
    assert inside(monkeypatch, capsys, "config", "check", preset).code == 0
    assert json.loads(inside(monkeypatch, capsys, "config", "show", preset, "--json").out)["kind"]


def test_plugins_are_all_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran = inside(monkeypatch, capsys, "plugins")
    assert ran.code == 0
    assert {line.split()[0] for line in ran.out.splitlines()[1:] if line[0] != " "} == set(installed_plugins())
    rows = json.loads(inside(monkeypatch, capsys, "plugins", "--json").out)["plugins"]
    assert {row["type"] for row in rows} == set(installed_plugins())


@pytest.mark.parametrize("type_string", sorted(installed_plugins()))
def test_every_plugin_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], type_string: str
) -> None:
    told = describe(installed_plugins(), type_string)
    assert told["kinds"]
    assert told["summary"].endswith(".")
    assert told["formula"]
    for parameter in told["parameters"]:
        assert parameter["description"].strip(), parameter["name"]
    ran = inside(monkeypatch, capsys, "plugins", type_string)
    assert ran.code == 0
    assert ran.out.startswith(type_string)
    assert all(parameter["name"] in ran.out for parameter in told["parameters"])


def test_load_aware_shows_defaults_and_formula(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inside(monkeypatch, capsys, "plugins", "load-aware").out
    for word in ("(scorer)", "formula: ", "inputs: ", "queueWeightFactor", "0.7", "activeRequestsWeight", "0.3"):
        assert word in text


def test_a_plugin_file_of_ones_own_is_explained_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from pointsman.framework.plugin import Params, Scorer, register\n"
        "@register('mine')\n"
        "class Mine(Scorer[Params]):\n"
        "    'Scores nothing [at all].'\n"
        "    def score(self, request, endpoints, state):\n"
        "        return [0.0 for _ in endpoints]\n"
    )
    ran = inside(monkeypatch, capsys, "plugins", "mine", "--file", str(path))
    assert ran.code == 0
    assert "Scores nothing [at all]." in ran.out
    assert str(path) in ran.out.replace("\n", "")
    assert "no parameters" in ran.out
    assert "Scores nothing [at all]." in inside(monkeypatch, capsys, "plugins", "--file", str(path)).out


def test_the_envoy_configuration_is_yaml_with_the_endpoints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = ["--endpoint", "http://10.0.0.1:8000", "--endpoint", "http://10.0.0.2:8001"]
    ran = inside(monkeypatch, capsys, "envoy-config", *urls, "--picker-host", "10.0.0.9", "--port", "8888")
    assert ran.code == 0
    assert {"static_resources", "admin"} <= set(yaml.safe_load(ran.out))
    for word in ("10.0.0.1", "10.0.0.2", "8001", "10.0.0.9", "8888"):
        assert word in ran.out
    eds = inside(monkeypatch, capsys, "envoy-config", *urls, "--eds")
    assert eds.code == 0
    assert "10.0.0.2" in json.dumps(json.loads(eds.out))
    left_out = inside(monkeypatch, capsys, "envoy-config", "--eds-path", "/run/endpoints.json")
    assert left_out.code == 0
    assert "/run/endpoints.json" in left_out.out
