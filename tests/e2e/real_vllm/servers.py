"""Starts real vLLM servers on CPU, with a tiny model of random weights."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MODEL = "tiny"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_model(folder: Path) -> Path:
    """The model's folder."""
    maker = Path(__file__).parent / "make_tiny_model.py"
    subprocess.run([PYTHON, maker, folder], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return folder


@contextmanager
def vllm_server(
    model: Path, core: int, log: Path, *, flags: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server on one core until the block ends; gives its URL, at which nothing answers yet."""
    port = free_port()
    env = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **(environment or {}),
    }
    command = ["--host", "127.0.0.1", "--port", str(port), "--model", str(model), "--served-model-name", MODEL]
    command += ["--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "8"]
    command += ["--max-num-batched-tokens", "2048", "--block-size", "32", "--num-gpu-blocks-override", "1024"]
    command += flags
    with log.open("wb") as out:
        process = subprocess.Popen(
            [PYTHON, "-m", "vllm.entrypoints.openai.api_server", *command], env=env, stdout=out, stderr=out
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_healthy(url: str, log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not come up: {log.read_text()[-2000:]}")
