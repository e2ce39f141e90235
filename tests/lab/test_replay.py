"""Replays of records, and questions of what would be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.lab.lab_builders import shared_prefixes
from tests.lab.record_builders import record

from pointsman.errors import ConfigError
from pointsman.lab.compare_specs import GivenWorkload, TraceWorkload
from pointsman.lab.options import FleetOptions
from pointsman.lab.records import recorded_fleet
from pointsman.lab.records_file import scan
from pointsman.lab.replay import MEASURED, SIMULATED, replay
from pointsman.lab.replay_parts import Faster, Part, span
from pointsman.lab.tune_goals import read_limit
from pointsman.lab.what_if import smallest, what_if

FLEET = FleetOptions(pods=3)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    record(tmp_path, shared_prefixes(), FLEET)
    return tmp_path / "records.jsonl"


def given(qps: float = 4.0) -> GivenWorkload:
    return GivenWorkload(name="given", requests=tuple(shared_prefixes(qps=qps).requests()))


def test_measured_and_simulated_come_first_and_agree(recorded: Path) -> None:
    info = scan(recorded)
    workload = TraceWorkload(path=recorded, format="records")
    found = replay(info, workload, recorded_fleet(info, FLEET), ["round-robin"], jobs=1)
    measured, simulated, candidate = found.rows
    assert [measured.name, simulated.name, candidate.name] == [MEASURED, SIMULATED, "round-robin"]
    assert measured.seen == simulated.seen == 30
    assert measured.hit_rate is not None
    assert simulated.hit_rate == pytest.approx(measured.hit_rate, abs=0.06)
    assert simulated.ttft_ms["p50"] == pytest.approx(measured.ttft_ms["p50"], rel=0.1)
    assert candidate.hit_rate is not None
    assert candidate.hit_rate < simulated.hit_rate - 0.2  # type: ignore[operator]
    assert not found.notes


def test_a_recorded_policy_that_cannot_be_built_is_left_out_with_a_note(recorded: Path) -> None:
    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    lines[0]["config"]["plugins"].append({"type": "of-another-time"})
    recorded.write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = scan(recorded)
    found = replay(info, TraceWorkload(path=recorded, format="records"), FLEET, ["random"], jobs=1)
    assert [row.name for row in found.rows] == [MEASURED, "random"]
    assert "of-another-time" in found.notes[0]


def test_what_is_a_guess_is_said(recorded: Path) -> None:
    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    lines[0]["sample"] = 0.5
    for line in lines:
        line.pop("output_tokens", None)
        line.pop("exact", None)
    recorded.write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = scan(recorded)
    fleet = recorded_fleet(info, FLEET)
    assert fleet.pods == 2
    notes = " ".join(replay(info, TraceWorkload(path=recorded, format="records"), fleet, [], jobs=1).notes)
    assert "sample of 50%" in notes
    assert "observeShare" in notes
    assert "estimates" in notes


def test_parts_and_speeds_of_workloads() -> None:
    whole = list(given().open().requests())
    assert span(given()) == (whole[0].arrival, whole[-1].arrival)
    part = list(Part(whole=given(), begin=3.0, end=5.0, warm=1.0).open().requests())
    assert [one.id for one in part] == [one.id for one in whole if 1 <= one.arrival < 5]
    assert [one.warm_up for one in part] == [one.arrival < 2.0 for one in part]
    assert part[0].arrival < 1.0
    fast = list(Faster(whole=given(), speed=2).open().requests())
    assert [one.arrival for one in fast] == [one.arrival / 2 for one in whole]


def test_the_smallest_fleet_that_is_enough_is_found() -> None:
    goal = read_limit("p95_ttft < 200")
    cells = what_if("default", given(), FLEET, pods=[1, 2, 4], kv_tokens=[], speeds=[1.0, 8.0], goal=goal, jobs=1)
    assert [(cell.speed, cell.pods) for cell in cells] == [(1, 1), (1, 2), (1, 4), (8, 1), (8, 2), (8, 4)]
    slow = [cell.p95_ttft_ms or 0 for cell in cells]
    assert slow[3] > slow[0]
    assert slow[3] > slow[5]
    least = smallest(cells)
    for speed, cell in least.items():
        enough = [one for one in cells if one.speed == speed and (one.p95_ttft_ms or 0) < 200]
        assert cell == (min(enough, key=lambda one: one.pods) if enough else None)
    assert least[1.0] is not None


def test_a_smaller_cache_finds_less() -> None:
    small, large = what_if("default", given(), FLEET, pods=[1], kv_tokens=[1600, 300_000], speeds=[1.0], jobs=1)
    assert small.hit_rate < large.hit_rate
    assert small.enough is None


@pytest.mark.parametrize("text", ["p95<500", "p95_ttft", "p95_ttft<", "p95_ttft=5", "<5", "p95_ttft<1.2.3"])
def test_a_goal_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--goal"):
        read_limit(text)
