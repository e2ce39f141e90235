"""Two real vLLM servers on CPU behind ``pointsman up``. Opt-in: ``make e2e-vllm`` (docs/real-vllm.md).

The same shared-prefix workload goes through Envoy's own round-robin and through the picker; every policy starts with
empty prefix caches and texts of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from pointsman.app.discovery import EndpointOptions
from pointsman.app.up import Up, UpOptions
from pointsman.datalayer.metrics_page import parse_metrics
from pointsman.demo.load import Shot, fire, get_json, get_text
from pointsman.demo.report import PolicyResult, print_table, summarize
from pointsman.observability.logging import setup
from pointsman.sim.workload import brief_workload, chat_body, poisson_arrivals

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MODEL = "tiny"
GROUPS, VARIANTS, SYSTEM_TOKENS, RATE = 16, 8, 2200, 4.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _vllm(model: Path, core: int, log: Path) -> Iterator[str]:
    port = _free_port()
    environment = {
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
    }
    flags = ["--host", "127.0.0.1", "--port", str(port), "--model", str(model), "--served-model-name", MODEL]
    flags += ["--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "8"]
    flags += ["--max-num-batched-tokens", "2048", "--block-size", "32", "--num-gpu-blocks-override", "1024"]
    flags += ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [PYTHON, "-m", "vllm.entrypoints.openai.api_server", *flags], env=environment, stdout=out, stderr=out
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_healthy(url: str, log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not come up: {log.read_text()[-2000:]}")


async def _counters(urls: list[str]) -> tuple[float, float]:
    pages = await asyncio.gather(*(get_text(f"{url}/metrics") for url in urls))
    readings = [reading for page in pages if (reading := parse_metrics(page, 0.0)) is not None]
    return sum(r.prefix_queries for r in readings), sum(r.prefix_hits for r in readings)


def _shots(seed: int) -> list[Shot]:
    rng = Random(seed)
    prompts = brief_workload(
        groups=GROUPS,
        variants=VARIANTS,
        system_tokens=SYSTEM_TOKENS,
        question_tokens=40,
        output_tokens=16,
        seed=seed,
    )
    rng.shuffle(prompts)
    times = poisson_arrivals(RATE, len(prompts), rng)
    return [Shot(at, chat_body(prompt, MODEL)) for at, prompt in zip(times, prompts, strict=True)]


async def _measure(urls: list[str], policy: str, seed: int) -> PolicyResult:
    for url in urls:
        await asyncio.to_thread(
            urllib.request.urlopen, urllib.request.Request(f"{url}/reset_prefix_cache", method="POST")
        )
    config = "default" if policy == "round-robin" else policy
    up = Up(
        UpOptions(
            endpoints=EndpointOptions(urls=tuple(urls)),
            config=config,
            port=0,
            round_robin_port=0,
            admin_port=0,
            log_level="warning",
            drain=2.0,
            message_timeout_ms=2000,
        )
    )
    await up.start()
    try:
        port = up.envoy.round_robin_port if policy == "round-robin" else up.envoy.port
        await asyncio.sleep(1.0)
        before = await _counters(urls)
        began = time.monotonic()
        results = await fire(f"http://127.0.0.1:{port}/v1/chat/completions", _shots(seed), timeout=120)
        wall = time.monotonic() - began
        after = await _counters(urls)
        records: list[dict[str, float]] = []
        if policy != "round-robin":
            data = await get_json(f"http://127.0.0.1:{up.admin_port}/decisions?last={len(results)}")
            records = data["decisions"]  # type: ignore[assignment]
        return summarize(
            results,
            time_scale=1,
            hit_rate=(after[1] - before[1]) / max(1.0, after[0] - before[0]),
            scheduling_ms=[record["scheduling_ms"] for record in records],
            decided=len(records) if records else None,
            wall_s=wall,
        )
    finally:
        await up.stop()


def test_shared_prefixes_hit_more_often_than_with_round_robin(tmp_path: Path) -> None:
    setup("warning")
    model = tmp_path / "model"
    maker = Path(__file__).parent / "real_vllm" / "make_tiny_model.py"
    subprocess.run([PYTHON, maker, model], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    logs = [tmp_path / "vllm-a.log", tmp_path / "vllm-b.log"]
    with _vllm(model, 0, logs[0]) as a, _vllm(model, 1, logs[1]) as b:
        for url, log in ((a, logs[0]), (b, logs[1])):
            _wait_healthy(url, log)
        for url in (a, b):  # the first request compiles
            asyncio.run(fire(f"{url}/v1/chat/completions", _shots(99)[:2], timeout=300))
        results = {
            policy: asyncio.run(_measure([a, b], policy, seed))
            for seed, policy in enumerate(("round-robin", "brief", "llm-d", "default"), start=1)
        }
    console = Console(width=140)
    print_table(console, results)
    console.print({name: result.errors for name, result in results.items()})
    assert all(results[name].success == 1.0 for name in ("brief", "llm-d", "default"))
    assert results["default"].hit_rate > results["round-robin"].hit_rate + 0.1
