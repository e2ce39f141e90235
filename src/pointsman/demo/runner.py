"""The demo: the same requests through round-robin and through the picker, everything real but the engines."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pointsman.app.discovery import EndpointOptions
from pointsman.app.processes import PointsmanChild, stop_signals
from pointsman.app.up import Up, UpOptions
from pointsman.datalayer.discovery import parse_endpoints_file
from pointsman.datalayer.metrics_page import parse_metrics
from pointsman.demo.load import Result, Shot, fire, get_json, get_text
from pointsman.demo.report import PolicyResult, print_table, summarize
from pointsman.sim.workload import brief_workload, chat_body, poisson_arrivals

ROUND_ROBIN = "round-robin"
MODEL = "Qwen/Qwen3-32B"
TIMEOUT_S = 120.0
"""Engine seconds that a client waits for an answer."""
STREAM_INTERVAL = 50
"""Tokens per chunk of a simulated answer: 11,000 chunks a second would measure the load generator."""


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Size of the demo; rates and times in engine time."""

    pods: int = 8
    groups: int = 150
    variants: int = 5
    rounds: int = 2
    system_tokens: int = 6000
    question_tokens: int = 200
    output_tokens: int = 500
    qps: float = 20.0
    time_scale: float = 5.0
    policies: tuple[str, ...] = (ROUND_ROBIN, "brief", "default")
    seed: int = 1
    keep: bool = False
    quiet: bool = False


class Traffic(msgspec.Struct, frozen=True):
    """What is sent, the same for every policy."""

    warm_up: list[Shot]
    measured: list[Shot]


def make_traffic(options: DemoOptions) -> Traffic:
    """One request per group to warm up, then every prompt ``rounds`` times in random order, with Poisson arrivals."""
    rng = Random(options.seed)
    prompts = brief_workload(
        groups=options.groups,
        variants=options.variants,
        system_tokens=options.system_tokens,
        question_tokens=options.question_tokens,
        output_tokens=options.output_tokens,
        seed=options.seed,
    )
    first = [prompt for prompt in prompts if prompt.variant == 0]
    rng.shuffle(first)
    prompts *= options.rounds
    rng.shuffle(prompts)

    def shots(chosen: Sequence[Any]) -> list[Shot]:
        times = poisson_arrivals(options.qps * options.time_scale, len(chosen), rng)
        return [Shot(at, chat_body(prompt, MODEL)) for at, prompt in zip(times, chosen, strict=True)]

    return Traffic(shots(first), shots(prompts))


class Stack:
    """A fresh fleet with Envoy and a picker in front of it."""

    def __init__(self, options: DemoOptions, policy: str) -> None:
        self._workdir = Path(tempfile.mkdtemp(prefix="pointsman-demo-"))
        self._endpoints = self._workdir / "pods.yaml"
        arguments = ["sim", "--pods", str(options.pods), "--port", "0", "--model", MODEL]
        arguments += ["--time-scale", str(options.time_scale), "--stream-interval", str(STREAM_INTERVAL)]
        arguments += ["--endpoints-file", str(self._endpoints)]
        self._fleet = PointsmanChild("simulated pods", arguments, log=self._workdir / "sim.log")
        self.policy = policy
        self.up = Up(
            UpOptions(
                endpoints=EndpointOptions(file=self._endpoints),
                config="default" if policy == ROUND_ROBIN else policy,
                port=0,
                round_robin_port=0,
                admin_port=0,
                time_scale=options.time_scale,
                log_level="error",
                drain=1.0,
                concurrency=1,
                seed=options.seed,
            )
        )

    async def start(self) -> None:
        await self._fleet.start(self._endpoints)
        await self.up.start()

    async def stop(self) -> None:
        await self.up.stop()
        await self._fleet.stop(1.0)
        shutil.rmtree(self._workdir, ignore_errors=True)

    @property
    def url(self) -> str:
        """Where the policy's requests go."""
        port = self.up.envoy.round_robin_port if self.policy == ROUND_ROBIN else self.up.envoy.port
        return f"http://127.0.0.1:{port}/v1/chat/completions"

    async def prefix_tokens(self) -> tuple[float, float]:
        """Prompt tokens looked up and found in the pods' prefix caches so far, by their own /metrics."""
        specs = parse_endpoints_file(self._endpoints.read_text(), str(self._endpoints))
        pages = await asyncio.gather(*(get_text(f"http://{s.address}:{s.port}/metrics") for s in specs))
        readings = [reading for page in pages if (reading := parse_metrics(page, 0.0)) is not None]
        return sum(r.prefix_queries for r in readings), sum(r.prefix_hits for r in readings)

    async def scheduling_ms(self, count: int) -> list[float]:
        """Scheduling time of the last decisions, real milliseconds."""
        data: Any = await get_json(f"http://127.0.0.1:{self.up.admin_port}/decisions?last={count}")
        return [record["scheduling_ms"] for record in data["decisions"]]


@asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[Stack]:
    """Start a stack and stop it, whatever happens in between."""
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


async def measure(stack: Stack, traffic: Traffic, options: DemoOptions, progress: Progress) -> PolicyResult:
    """Warm up, then measure one policy."""
    timeout = TIMEOUT_S / options.time_scale
    task = progress.add_task(f"{stack.policy}: warm-up", total=len(traffic.warm_up))
    await fire(stack.url, traffic.warm_up, timeout, lambda n: progress.advance(task, n))
    progress.remove_task(task)
    queries, hits = await stack.prefix_tokens()
    task = progress.add_task(stack.policy, total=len(traffic.measured))
    began = time.monotonic()
    results: list[Result] = await fire(stack.url, traffic.measured, timeout, lambda n: progress.advance(task, n))
    wall = time.monotonic() - began
    queries_after, hits_after = await stack.prefix_tokens()
    picked = stack.policy != ROUND_ROBIN
    everything = len(traffic.warm_up) + len(results)
    scheduling = await stack.scheduling_ms(everything) if picked else []
    missed = everything - len(scheduling) if picked else 0
    return summarize(
        results,
        time_scale=options.time_scale,
        hit_rate=(hits_after - hits) / max(1.0, queries_after - queries),
        scheduling_ms=scheduling[: len(results)],
        decided=len(results) - missed if picked else None,
        wall_s=wall,
    )


async def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Run every policy and print the table; returns the results as plain data."""
    console = Console(stderr=True, highlight=False, quiet=options.quiet)
    traffic = make_traffic(options)
    console.print(
        f"{options.pods} simulated pods (Qwen3-32B on 2×H100 each, {options.time_scale:g}× real time) behind a real "
        "Envoy; "
        f"{len(traffic.measured)} requests at {options.qps:g}/s, {options.groups} system prompts of "
        f"{options.system_tokens:,} tokens × {options.variants} questions × {options.rounds}, answers of "
        f"{options.output_tokens} tokens."
    )
    results: dict[str, PolicyResult] = {}
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=options.quiet) as progress:
        for policy in options.policies:
            stack = Stack(options, policy)
            async with running(stack):
                results[policy] = await measure(stack, traffic, options, progress)
                if options.keep and policy == options.policies[-1]:
                    progress.stop()
                    _explain(console, results)
                    await _keep(console, stack)
                    return {name: msgspec.to_builtins(result) for name, result in results.items()}
    _explain(console, results)
    return {name: msgspec.to_builtins(result) for name, result in results.items()}


def _explain(console: Console, results: dict[str, PolicyResult]) -> None:
    print_table(console, results)
    console.print(
        "TTFT and throughput: by the client, from each request's appointed time, in engine time. Hit rate: by the "
        "pods' own /metrics (tokens found / tokens looked up). Scheduling: by the picker, last request byte to "
        "decision, real time. round-robin is Envoy's own, as a Kubernetes Service would spread the requests; brief "
        "picks uniformly among its best three pods, which throws away hits that default keeps."
    )
    for name, result in results.items():
        for cause, count in sorted(result.errors.items(), key=lambda item: -item[1])[:3]:
            console.print(f"[yellow]{name}:[/] {count} × {cause}")
        if result.failed_open:
            console.print(f"[yellow]{name}:[/] {result.failed_open} requests went on without the picker (fail open)")


async def _keep(console: Console, stack: Stack) -> None:
    body = msgspec.json.encode({"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16})
    lines = (
        f"\nStill running ({stack.policy}). Try:",
        f"  curl {stack.url} -H 'content-type: application/json' -d '{body.decode()}'",
        f"  curl 'http://127.0.0.1:{stack.up.admin_port}/decisions?last=1'",
        "Ctrl-C ends.",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    await stop_signals().wait()
