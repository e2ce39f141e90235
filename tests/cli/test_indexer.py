"""``pointsman indexer`` as a process, and flags that cannot be used."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pointsman.cli.main import app
from pointsman.errors import ConfigError
from pointsman.kvcache import snapshot as disk


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    app(["indexer", "--help"], result_action="return_value")
    text = capsys.readouterr().out
    for flag in ("--endpoint", "--endpoints-file", "--bind", "--events-port", "--max-blocks", "--snapshot", "--port"):
        assert flag in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "65536"], "--port"),
        (["--max-blocks", "0"], "--max-blocks"),
        (["--events-port", "70000"], "--events-port"),
        (["--events-port", "0"], "--events-port"),
        (["--snapshot-period", "0"], "--snapshot-period"),
        (["--snapshot-period", "nan"], "--snapshot-period"),
        (["--snapshot", "/nowhere/at/all"], "--snapshot"),
        (["--bind", "5555"], "--bind"),
        (["--shared", "http://cache"], r"--shared: .*redis://HOST:6379/0"),
        (["--scope", ""], "--scope"),
        (["--endpoint", "http://127.0.0.1:1", "--endpoints-file", "x"], "endpoints"),
        (["--endpoint", "ftp://127.0.0.1"], "--endpoint"),
        (["--tokenizer", "/nowhere/at/all"], "--tokenizer"),
        (["--tokenize-url", "10.0.0.1:8000"], "--tokenize-url"),
        (["--tokenize-budget-ms", "nan"], "--tokenize-budget-ms"),
    ],
)
def test_bad_flags(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app(["indexer", "--port", "0", *words] if "--port" not in words else ["indexer", *words])


def test_it_serves_until_told_to_end(tmp_path: Path) -> None:
    ready, snapshot = tmp_path / "ready", tmp_path / "index"
    words = ["--port", "0", "--bind", "tcp://127.0.0.1:*", "--snapshot", str(snapshot), "--ready-file", str(ready)]
    with subprocess.Popen([sys.executable, "-m", "pointsman", "indexer", *words], stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 15
            while not ready.exists() and time.monotonic() < end:
                time.sleep(0.05)
            said = json.loads(ready.read_text())
            assert "127.0.0.1" in said["events"]
            with urllib.request.urlopen(f"http://127.0.0.1:{said['port']}/healthz", timeout=5) as answer:
                assert answer.read() == b"ok\n"
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=10)
    assert (process.returncode, b"Traceback" in errors) == (0, False)
    assert disk.read(snapshot) is not None
