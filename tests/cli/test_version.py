from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pointsman import __version__
from pointsman.cli import version as module
from pointsman.cli.version import version
from pointsman.errors import StartupError
from pointsman.kvcache import _native


def test_the_version_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert version() == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_all_of_it_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert version(verbose=True, as_json=True) == 0
    facts = msgspec.json.decode(capsys.readouterr().out)
    assert set(facts) == {"pointsman", "python", "speedups", "envoy", "grpcio", "msgspec"}
    assert facts["speedups"] == _native.description()
    assert facts["speedups"] == "compiled" or facts["speedups"].startswith("pure Python (")
    assert facts["msgspec"] == msgspec.__version__


def test_all_of_it_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    version(verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["pointsman", "python", "speedups", "envoy", "grpcio", "msgspec"]


def fake_envoy(folder: Path, script: str) -> str:
    path = folder / "envoy"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_envoy_that_is_missing_or_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise StartupError("no Envoy found")

    monkeypatch.setattr(module, "find_envoy", none)
    assert module.details()["envoy"] == "not found"
    for script, said in (("exit 3", "does not run (CalledProcessError)"), ("echo dev", "dev")):
        path = fake_envoy(tmp_path, script)
        monkeypatch.setattr(module, "find_envoy", lambda path=path: path)
        assert module.details()["envoy"] == said
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package",))
    assert module.details()["no-such-package"] == "not installed"
