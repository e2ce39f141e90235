"""Calibrating simulated engines over real HTTP, and from their metrics pages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from tests.sim.test_engine import request, run

from pointsman.cli.calibrate import profile_text
from pointsman.errors import ConfigError
from pointsman.lab.calibrate import by_pages, by_probe, by_watching, latency_model
from pointsman.lab.calibrate_client import ProbeClient
from pointsman.lab.calibrate_fit import CalibrationError
from pointsman.lab.calibrate_probe import ProbeOptions
from pointsman.latency.model import LATENCY_PROFILES
from pointsman.sim.engine import Engine
from pointsman.sim.metrics_page import MetricsPage
from pointsman.sim.profiles import EngineProfile, find_profile
from pointsman.sim.server import PodOptions, SimulatedPod

QWEN = find_profile("qwen3-32b-2xh100")
OTHER = find_profile("qwen3-8b-1xh100")
QUICK = ProbeOptions(lengths=(512, 2048, 4096), repeats=2, concurrencies=(1, 6), contexts=(128, 2048), outputs=60)


async def probed(scale: float) -> EngineProfile:
    pod = SimulatedPod(PodOptions("p", QWEN, time_scale=scale))
    await pod.start()
    try:
        return (await by_probe(f"http://127.0.0.1:{pod.port}", OTHER, options=QUICK)).profile
    finally:
        await pod.stop()


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_simulated_engine_s_costs_are_found_over_http(scale: float) -> None:
    found = asyncio.run(probed(scale))
    # Times, not coefficients: those trade against each other. Wide, for machines with other things to do.
    for tokens in (1024, 4096):
        measured = (found.prefill_fixed + found.chunk_ms(tokens, 0)) * scale
        assert measured == pytest.approx(QWEN.prefill_fixed + QWEN.chunk_ms(tokens, 0), rel=0.4)
    assert found.step_ms(4, 4000, 0) * scale == pytest.approx(QWEN.step_ms(4, 4000, 0), rel=0.4)
    assert (found.kv_tokens, found.max_model_len, found.max_num_seqs) == (308_992, 40_960, 256)
    assert found.model == QWEN.model


def test_the_file_is_read_back_and_the_picker_s_model_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(profile_text(QWEN), "utf-8")
    assert find_profile(str(path)) == QWEN
    model = latency_model(find_profile(str(path), kv_tokens=16_000))
    assert model.prefill_ms(1000, 500) == LATENCY_PROFILES[QWEN.name].prefill_ms(1000, 500)


@pytest.mark.parametrize(
    ("text", "message"),
    [("name: x", "missing required field"), ("[", "no engine profile"), ("decode_bass: 1", "engine profile")],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message):
        find_profile(str(path))
    with pytest.raises(ConfigError, match="cannot read"):
        find_profile(str(tmp_path / "none.yaml"))


def pages(profile: EngineProfile) -> tuple[str, str]:
    """Metrics pages of an engine before and after twelve answers side by side."""
    engine = Engine(profile)
    page = MetricsPage("m", profile, 0.0, 0)
    for number in range(30):
        engine.submit(request(f"warm {number}", 700 + number, 3, interval=0), 0.0)
    now, _ = run(engine)
    for number in range(30):
        engine.submit(request(f"r {number}", 1000 + number, 800, interval=0), now)
    now, _ = run(engine, now, until=lambda: engine.stats.generation_tokens > 3000)
    before = page.render(engine.stats).decode()
    for number in range(40):
        engine.submit(request(f"late {number}", 2000 + number, 400, interval=0), now)
        now, _ = run(engine, now, until=lambda: engine.stats.generation_tokens % 97 == 0)
    return before, page.render(engine.stats).decode()


def test_two_pages_scale_a_profile() -> None:
    slower = msgspec.structs.replace(
        QWEN, decode_base=1.3 * 14.12, decode_per_request=1.3 * 0.0553, decode_per_context_token=1.3 * 5.32e-5
    )
    same = by_pages(*pages(QWEN), QWEN)
    other = by_pages(*pages(slower), QWEN)
    assert same.scales is not None
    assert other.scales is not None
    assert same.scales.decode == pytest.approx(1.0, abs=0.2)
    assert other.scales.decode / same.scales.decode == pytest.approx(1.3, abs=0.15)
    assert other.profile.decode_base == pytest.approx(14.12 * other.scales.decode)


def test_pages_that_say_nothing_are_refused() -> None:
    before, after = pages(QWEN)
    with pytest.raises(CalibrationError, match="too few"):
        by_pages(after, after, QWEN)
    with pytest.raises(CalibrationError, match="counts fell"):
        by_pages(after, before, QWEN)
    with pytest.raises(CalibrationError, match="no metrics page"):
        by_pages("hello", after, QWEN)


async def ask_server(routes: list[web.RouteDef], do: Callable[[str], Awaitable[object]]) -> None:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        await do(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


async def models(_: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "m", "max_model_len": 8192}]})


async def whole(_: web.Request) -> web.Response:
    return web.json_response({"choices": [{"text": "hi"}]})


async def refusing(_: web.Request) -> web.Response:
    return web.json_response({"error": "no"}, status=500)


@pytest.mark.parametrize(("answer", "message"), [(whole, "does not stream"), (refusing, "answered 500 to a probe")])
def test_an_engine_that_cannot_be_measured_says_why(
    answer: Callable[[web.Request], Awaitable[web.Response]], message: str
) -> None:
    routes = [web.get("/v1/models", models), web.post("/v1/completions", answer)]

    async def do(url: str) -> None:
        with pytest.raises(CalibrationError, match=message):
            await by_probe(url, QWEN, options=QUICK)

    asyncio.run(ask_server(routes, do))


def test_addresses_and_names_that_are_wrong_are_said() -> None:
    async def do(url: str) -> None:
        with pytest.raises(CalibrationError, match="no model 'other'; it has m"):
            async with ProbeClient(url, "other"):
                pass
        with pytest.raises(CalibrationError, match="three --lengths"):
            await by_probe(url, QWEN, options=ProbeOptions(lengths=(64, 9000, 9001)))
        with pytest.raises(CalibrationError, match="no metrics page"):
            await by_watching(url, QWEN, 0.0)

    asyncio.run(ask_server([web.get("/v1/models", models)], do))

    async def nobody() -> None:
        with pytest.raises(CalibrationError, match="cannot be reached"):
            await by_probe("http://127.0.0.1:1", QWEN)

    asyncio.run(nobody())
