"""The promise of the fit, on simulated engines: a calibration three times off is forgotten after 300 requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pointsman.framework.loader import read_source
from pointsman.lab.options import FleetOptions
from pointsman.lab.results import RunResult
from pointsman.lab.runner import Run
from pointsman.lab.workloads.open_loop import LongMix
from pointsman.sim.profiles import DEFAULT_PROFILE, EngineProfile, find_profile

TRUTH = find_profile(DEFAULT_PROFILE)


def write(folder: Path, prefill: float, decode: float, **fields: Any) -> str:
    """The default policy, seeded by a wrong calibration."""
    wrong = msgspec.to_builtins(TRUTH)
    for name in wrong:
        if name.startswith(("prefill_", "decode_")):
            wrong[name] *= prefill if name.startswith("prefill_") else decode
    (folder / "seed.yaml").write_text(yaml.safe_dump(wrong))
    path = folder / "policy.yaml"
    text, _ = read_source("default")
    path.write_text(text + "\n" + yaml.safe_dump({"latencyProfile": "seed.yaml"} | fields))
    return str(path)


def prefill_ms(profile: EngineProfile, new: int, cached: int) -> float:
    return profile.prefill_fixed + profile.chunk_ms(new, cached)


@pytest.mark.parametrize("prefill", [1 / 3, 3.0])
@pytest.mark.parametrize("decode", [1 / 3, 3.0])
def test_a_wrong_calibration_is_forgotten_after_300_requests(tmp_path: Path, prefill: float, decode: float) -> None:
    workload = LongMix(qps=8.0, seed=2, scale=300 / 8 / 180)
    run = Run(write(tmp_path, prefill, decode), workload, FleetOptions(pods=4, observe_share=1.0))
    result = run.run()
    assert 250 < len(result.rows) < 350
    for new, cached in ((1000, 0), (4000, 0), (1000, 6000), (20_000, 0)):
        assert run.cost.prefill_ms(new, cached) == pytest.approx(prefill_ms(TRUTH, new, cached), rel=0.1)
    for batch in (1, 4, 8):
        expected = TRUTH.step_ms(batch, batch * 2000, 0.0)
        assert run.cost.decode_step_ms(batch, batch * 2000) == pytest.approx(expected, rel=0.1)


def test_the_share_of_answers_looked_at_can_be_given(tmp_path: Path) -> None:
    policy = write(tmp_path, 1.0, 1.0)
    runs = [Run(policy, LongMix(qps=4.0, scale=0.1), FleetOptions(pods=2, observe_share=x)) for x in (0.0, 1.0)]
    results: list[RunResult] = [run.run() for run in runs]
    learnt = [run.cost.describe()["samples"]["decode"] for run in runs]  # type: ignore[attr-defined]
    assert learnt[0] == 0
    assert learnt[1] > 0.8 * len(results[1].rows)


def test_without_the_fit_the_calibration_stays(tmp_path: Path) -> None:
    run = Run(write(tmp_path, 3.0, 1.0, latencyFit=False), LongMix(qps=4.0, scale=0.05), FleetOptions(pods=2))
    run.run()
    assert run.cost.prefill_ms(1000, 0) == pytest.approx(3 * prefill_ms(TRUTH, 1000, 0))


@pytest.mark.parametrize(("per_pod", "told"), [(True, {"default/pod-1": 2.0}), (False, {})])
def test_a_slow_pod_is_told_apart_if_asked_to(tmp_path: Path, per_pod: bool, told: dict[str, float]) -> None:
    fleet = FleetOptions(pods=4, observe_share=1.0, speeds=(1.0, 2.0))
    run = Run(write(tmp_path, 1.0, 1.0, latencyPerPod=per_pod), LongMix(qps=8.0, seed=2, scale=0.2), fleet)
    run.run()
    assert run.cost.paces == pytest.approx(told, rel=0.15)  # type: ignore[attr-defined]
