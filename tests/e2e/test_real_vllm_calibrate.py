"""A profile calibrated on a real vLLM (CPU) predicts a mixed load on it. Opt-in: ``make e2e-vllm``.

Needs a quiet machine: the server shares its cores with whatever else runs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import msgspec
import pytest
from rich.console import Console
from tests.e2e.real_vllm.servers import MODEL, make_model, vllm_server, wait_healthy

from pointsman.lab.calibrate import by_probe
from pointsman.lab.calibrate_client import ProbeClient, Reply
from pointsman.lab.calibrate_probe import ProbeOptions
from pointsman.lab.options import FleetOptions
from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.lab.results import percentile
from pointsman.lab.runner import simulate
from pointsman.sim.profiles import EngineProfile, find_profile
from pointsman.sim.workload import poisson_arrivals

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

REQUESTS = 120
OPTIONS = ProbeOptions(
    lengths=(128, 256, 512, 1024, 2048, 3000), concurrencies=(1, 2, 4, 8), contexts=(128, 1024), repeats=4
)


def _load(profile: EngineProfile, prompts: ProbeClient) -> list[LabRequest]:
    """Prompts of 100 to 2,500 tokens, a third behind a shared beginning, at a fifth of what the engine can do."""
    rng = Random(5)
    shared = prompts.prompt(1024)
    sizes = [(round(100 * 25 ** rng.random()), rng.randrange(16, 64)) for _ in range(REQUESTS)]
    work = sum(profile.chunk_ms(n, 0) + m * profile.step_ms(4, 4 * n, 0) / 4 for n, m in sizes) / REQUESTS / 1e3
    times = poisson_arrivals(0.2 / work, REQUESTS, rng)
    return [
        LabRequest(
            id=str(number),
            arrival=at,
            tokens=(shared + prompts.prompt(tokens // 4)) if number % 3 == 0 else prompts.prompt(tokens),
            max_tokens=outputs,
        )
        for number, (at, (tokens, outputs)) in enumerate(zip(times, sizes, strict=True))
    ]


async def _measure(url: str) -> tuple[EngineProfile, list[LabRequest], list[Reply]]:
    base = msgspec.structs.replace(find_profile("qwen3-8b-1xh100"), max_batched_tokens=2048, max_num_seqs=8)
    found = await by_probe(url, base, model=MODEL, options=OPTIONS)
    profile = msgspec.structs.replace(found.profile, max_num_seqs=8)
    Console(width=140).print(found.fit)
    async with ProbeClient(url, MODEL, seed=99) as client:
        load = _load(profile, client)

        async def ask(one: LabRequest) -> Reply:
            await asyncio.sleep(one.arrival)
            return await client.ask(one.tokens, one.max_tokens)

        return profile, load, list(await asyncio.gather(*map(ask, load)))


def test_a_calibrated_profile_predicts_a_mixed_load(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    log = tmp_path / "vllm.log"
    with vllm_server(model, 0, log, flags=("--enable-prefix-caching", "--enable-prompt-tokens-details")) as url:
        wait_healthy(url, log)
        profile, load, replies = asyncio.run(_measure(url))
    rows = simulate("random", FixedWorkload("mixed", load), FleetOptions(pods=1, profile=profile)).rows
    real = {
        "TTFT": [(reply.times[0] - reply.sent) * 1e3 for reply in replies],
        "TPOT": [(reply.times[-1] - reply.times[0]) * 1e3 / (reply.outputs - 1) for reply in replies],
    }
    ours = {"TTFT": [row.ttft_ms for row in rows], "TPOT": [value for row in rows if (value := row.tpot_ms)]}
    errors = {}
    for name, share in ((name, share) for name in real for share in (0.5, 0.9, 0.95)):
        measured, predicted = (percentile(sorted(values[name]), share) for values in (real, ours))
        errors[name, share] = predicted / measured - 1
        Console(width=140).print(f"{name} p{share:.0%}: measured {measured:.2f} ms, predicted {predicted:.2f} ms")
    assert all(abs(error) <= 0.15 for error in errors.values()), errors
