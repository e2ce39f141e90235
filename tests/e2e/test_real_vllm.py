"""Two real vLLM servers on CPU behind ``pointsman up``. Opt-in: ``make e2e-vllm`` (docs/real-vllm.md).

The same shared-prefix workload goes through Envoy's own round-robin and through the picker; every policy starts with
empty prefix caches and texts of its own.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from pathlib import Path
from random import Random

import pytest
from rich.console import Console
from tests.e2e.real_vllm.servers import MODEL, make_model, vllm_server, wait_healthy

from pointsman.app.discovery import EndpointOptions
from pointsman.app.up import Up, UpOptions
from pointsman.datalayer.metrics_page import parse_metrics
from pointsman.demo.load import Shot, fire, get_json, get_text
from pointsman.demo.report import PolicyResult, print_table, summarize
from pointsman.observability.logging import setup
from pointsman.sim.workload import brief_workload, chat_body, poisson_arrivals

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

GROUPS, VARIANTS, SYSTEM_TOKENS, RATE = 16, 8, 2200, 4.0


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
    model = make_model(tmp_path / "model")
    logs = [tmp_path / "vllm-a.log", tmp_path / "vllm-b.log"]
    flags = ("--enable-prefix-caching", "--enable-prompt-tokens-details")
    with vllm_server(model, 0, logs[0], flags=flags) as a, vllm_server(model, 1, logs[1], flags=flags) as b:
        for url, log in ((a, logs[0]), (b, logs[1])):
            wait_healthy(url, log)
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
