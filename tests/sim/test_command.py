from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pointsman.cli.sim import write_endpoints
from pointsman.errors import StartupError
from pointsman.sim.fleet import PodAddress

RUN = "import sys; from cyclopts import App; from pointsman.cli.sim import sim; app = App(); app.command(sim); app()"


def test_the_command_says_where_its_pods_are_and_ends_cleanly(tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    arguments = ["sim", "--pods", "2", "--port", "0", "--model", "m", "--json", "--endpoints-file", str(file)]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            text += line
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    pods = json.loads(text)["pods"]
    endpoints = yaml.safe_load(file.read_text())["endpoints"]
    assert [pod["name"] for pod in pods] == ["sim-0", "sim-1"]
    assert [(one["address"], int(one["port"])) for one in endpoints] == [(pod["host"], pod["port"]) for pod in pods]


def test_the_endpoints_file_is_llm_d_s(tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    file.write_text("old")
    write_endpoints(file, [PodAddress("sim-0", "0.0.0.0", 8100), PodAddress("sim-1", "10.0.0.5", 8101)], "org/m")
    labels = {"model-id": "org/m", "inference.networking.k8s.io/engine-type": "vllm"}
    assert yaml.safe_load(file.read_text()) == {
        "endpoints": [
            {"name": "sim-0", "namespace": "default", "address": "127.0.0.1", "port": "8100", "labels": labels},
            {"name": "sim-1", "namespace": "default", "address": "10.0.0.5", "port": "8101", "labels": labels},
        ]
    }
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot write"):
        write_endpoints(tmp_path / "no" / "pods.yaml", [], "m")
