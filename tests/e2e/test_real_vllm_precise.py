"""The preset ``precise`` on two real vLLM servers with other hash seeds and algorithms. Opt-in: ``make e2e-vllm``.

The servers run with their defaults but for ``--kv-events-config`` (and what a CPU needs): block size, ports of the
event stream and token ids are found out by the picker.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from rich.console import Console
from tests.e2e.real_vllm.servers import MODEL, make_model, vllm_server, wait_healthy

from pointsman.app.discovery import EndpointOptions
from pointsman.app.up import Up, UpOptions
from pointsman.datalayer.metrics_page import parse_metrics
from pointsman.demo.load import get_json, get_text
from pointsman.observability.logging import setup

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

BLOCK = 32
EVENTS = json.dumps({"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "tcp://*:0"})
WORDS = ("switch", "track", "train", "signal", "station", "yard", "lever", "freight", "express", "junction")


def _texts(count: int, seed: int) -> list[list[dict[str, str]]]:
    """Conversations of one to three turns behind four system prompts."""
    rng = Random(seed)
    systems = [" ".join(rng.choices(WORDS, k=160)) for _ in range(4)]
    found = []
    for number in range(count):
        messages = [{"role": "system", "content": systems[number % 4]}]
        for _ in range(1 + number % 3):
            messages.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=30))})
            messages.append({"role": "assistant", "content": " ".join(rng.choices(WORDS, k=20))})
        found.append([*messages, {"role": "user", "content": "go on"}])
    return found


async def _hits(url: str) -> float:
    reading = parse_metrics(await get_text(f"{url}/metrics"), 0.0)
    assert reading is not None
    return reading.prefix_hits


async def _ask(session: aiohttp.ClientSession, port: int, messages: list[dict[str, str]], at: int) -> None:
    body = {"model": MODEL, "messages": messages, "max_tokens": 4, "temperature": 0}
    headers = {"x-request-id": f"real-{at}"}
    async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()


async def _pods(admin: str) -> list[dict[str, Any]]:
    found: Any = await get_json(f"{admin}/pods")
    return list(found["pods"])


async def _confident(admin: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pods = await _pods(admin)
        if all(pod["kv_events"] and pod["kv_events"]["confidence"] >= 0.9 for pod in pods):
            return
        await asyncio.sleep(0.2)
    pytest.fail(f"streams are not followed: {pods}")


async def _run(urls: list[str]) -> None:
    up = Up(
        UpOptions(
            endpoints=EndpointOptions(urls=tuple(urls)),
            config="precise",
            port=0,
            admin_port=0,
            log_level="warning",
            drain=2.0,
            message_timeout_ms=2000,
        )
    )
    await up.start()
    try:
        admin = f"http://127.0.0.1:{up.admin_port}"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
            for at, messages in enumerate(_texts(8, seed=1)):
                await _ask(session, up.envoy.port, messages, at)
            await _confident(admin)
            exact, rows = 0, []
            conversations = _texts(8, seed=1) + _texts(24, seed=2)
            for at, messages in enumerate(conversations, start=100):
                before = [await _hits(url) for url in urls]
                await _ask(session, up.envoy.port, messages, at)
                await asyncio.sleep(0.3)  # the event of this step, and the counter on the page
                after = [await _hits(url) for url in urls]
                record: Any = await get_json(f"{admin}/decisions/real-{at}")
                cached = sum(after) - sum(before)
                rows.append((record["predicted_cached_tokens"], cached))
                exact += abs(record["predicted_cached_tokens"] - cached) <= BLOCK
        pods = await _pods(admin)
        console = Console(width=140)
        console.print({pod["id"]: pod["kv_events"] for pod in pods})
        console.print("predicted, cached:", rows)
        assert exact >= 0.99 * len(conversations), rows
        assert sum(cached for _, cached in rows) > 0
        assert all(pod["kv_events"]["blocks"]["gpu"] > 0 and pod["kv_events"]["gaps"] == 0 for pod in pods)
    finally:
        await up.stop()


def test_predicted_cached_tokens_are_those_of_the_engines(tmp_path: Path) -> None:
    setup("warning")
    model = make_model(tmp_path / "model")
    logs = [tmp_path / "vllm-a.log", tmp_path / "vllm-b.log"]
    one = vllm_server(model, 0, logs[0], flags=("--kv-events-config", EVENTS))
    other = vllm_server(
        model,
        1,
        logs[1],
        flags=("--kv-events-config", EVENTS, "--prefix-caching-hash-algo", "sha256_cbor"),
        environment={"PYTHONHASHSEED": "7"},
    )
    with one as a, other as b:
        for url, log in ((a, logs[0]), (b, logs[1])):
            wait_healthy(url, log)
        asyncio.run(_run([a, b]))
