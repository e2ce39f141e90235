"""Searching parameters, and being honest about what was found."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import yaml
from msgspec.structs import replace
from tests.lab.lab_builders import shared_prefixes

from pointsman.errors import ConfigError
from pointsman.lab.compare_specs import GivenWorkload
from pointsman.lab.options import FleetOptions
from pointsman.lab.results import Row
from pointsman.lab.tune import TuneOptions, tune
from pointsman.lab.tune_goals import GOALS, change_of, figure_of, find_goal
from pointsman.lab.tune_space import draw_allowed, find_space, load_policy

FLEET = FleetOptions(pods=3)
BAD_WEIGHTS = """\
scorers:
  - {type: prefix-cache-scorer, weight: 0.01}
  - {type: active-request-scorer, weight: 1}
"""


def workload(qps: float = 6.0) -> GivenWorkload:
    requests = shared_prefixes(groups=12, variants=12, qps=qps, prefix=3000).requests()
    return GivenWorkload(name="given", requests=tuple(requests))


def rows(times: list[float]) -> list[Row]:
    return [
        Row(f"r{i}", i, 100, 10, first_token=i + time, end=i + time + 1, status=200) for i, time in enumerate(times)
    ]


def test_weights_and_numbers_within_their_bounds_are_the_space(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("filters: [{type: queue-depth, maxQueueLength: 8}]\n" + BAD_WEIGHTS + "selection: {topK: 2}\n")
    axes = {axis.name: axis for axis in find_space(str(path)).axes}
    assert (axes["active-request-scorer.weight"].low, axes["active-request-scorer.weight"].high) == (0.25, 4)
    assert (axes["queue-depth.maxQueueLength"].low, axes["queue-depth.maxQueueLength"].whole) == (2, True)
    assert all(isinstance(axes["queue-depth.maxQueueLength"].draw(Random(i)), int) for i in range(20))


def test_a_space_may_be_written(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("space:\n  active-request-scorer.weight: [0, 10]\n  top-k.topK: {choices: [1, 3]}\n")
    (tmp_path / "p.yaml").write_text(BAD_WEIGHTS + "selection: {topK: 2}\n")
    axes = find_space(str(tmp_path / "p.yaml"), path).axes
    assert [(axis.name, axis.low, axis.high, axis.choices) for axis in axes] == [
        ("active-request-scorer.weight", 0, 10, ()),
        ("top-k.topK", 0, 0, (1, 3)),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("space: {active-request-scorer.wieght: [0, 1]}", r"s.yaml:1: .*no 'active-request-scorer.wieght'"),
        ("space: {active-request-scorer.weight: [2, 1]}", "low below high"),
        ("space: {active-request-scorer.weight: [2]}", r"expected \[low, high\]"),
        ("spaces: {}", "s.yaml:1"),
    ],
)
def test_a_space_that_cannot_be_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    (tmp_path / "p.yaml").write_text(BAD_WEIGHTS)
    with pytest.raises(ConfigError, match=words):
        find_space(str(tmp_path / "p.yaml"), tmp_path / "s.yaml")


@pytest.mark.parametrize("policy", ["default", "brief", "llm-d"])
def test_every_setting_of_a_preset_is_a_policy_that_loads(tmp_path: Path, policy: str) -> None:
    space = find_space(policy)
    assert load_policy(policy).effective() == space.applied(space.setting_now())
    for seed in range(5):
        path = tmp_path / "v.yaml"
        path.write_text(yaml.safe_dump(space.applied(draw_allowed(space, Random(seed)))))
        load_policy(str(path))


def test_a_policy_without_numbers_has_nothing_to_tune() -> None:
    with pytest.raises(ConfigError, match="no weight"):
        find_space("round-robin")


def test_the_interval_holds_the_change_and_chance_has_zero_in_it() -> None:
    rng = Random(1)
    times = [rng.expovariate(5) for _ in range(400)]
    goal = GOALS["mean_ttft"]
    slower = change_of(goal, rows(times), rows([time + 0.1 for time in times]), seed=1)
    assert slower.after - slower.before == pytest.approx(100)
    assert slower.low <= 100.0001
    assert slower.high >= 99.9999
    assert slower.certain
    noise = change_of(goal, rows(times), rows(rng.sample(times, len(times))), seed=1)
    assert noise.low < 0 < noise.high
    assert not noise.certain
    same = change_of(goal, rows(times), rows(times), seed=1)
    assert (same.low, same.high, same.certain) == (0, 0, False)


def test_a_failed_request_is_the_slowest_of_all() -> None:
    good = rows([0.1] * 100)
    bad = rows([0.1] * 100)
    for row in bad[:10]:
        row.status = 503
    assert figure_of(GOALS["p50_ttft"], bad) == pytest.approx(100)
    assert figure_of(GOALS["p95_ttft"], bad) > 1e9
    assert figure_of(GOALS["success"], bad) == 0.9
    assert figure_of(GOALS["p95_ttft"], good) == pytest.approx(100)
    with pytest.raises(ConfigError, match="p95_ttft"):
        find_goal("speed")


def test_weights_that_are_wrong_are_found_and_the_promise_is_measured_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(BAD_WEIGHTS)
    space_file = tmp_path / "space.yaml"
    space_file.write_text("space: {prefix-cache-scorer.weight: [0.01, 10], active-request-scorer.weight: [0.1, 2]}")
    space = find_space(str(path), space_file)
    options = TuneOptions(goal=GOALS["hit_rate"], variants=6, jobs=1)
    told: list[tuple[str, int, int]] = []
    found = tune(space, workload(), FLEET, options, lambda *news: told.append(news))
    assert found.improved(GOALS["hit_rate"])
    assert found.change is not None
    assert found.change.after > found.change.before
    assert found.best["prefix-cache-scorer.weight"] > found.before["prefix-cache-scorer.weight"]
    assert [count for count, _ in found.rounds] == [6, 3, 2]
    assert found.rounds[-1][1] == 1.0
    assert {name for name, _, _ in told} == {"round 1 of 3", "round 2 of 3", "round 3 of 3", "held-out part"}
    assert tune(space, workload(), FLEET, options) == found
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(found.config))
    load_policy(str(tmp_path / "best.yaml"))


def test_nothing_to_gain_is_said(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("scorers: [{type: queue-scorer, weight: 1}, {type: kv-cache-utilization-scorer, weight: 1}]")
    idle = tune(find_space(str(path)), workload(qps=0.5), FLEET, TuneOptions(goal=GOALS["success"], variants=4, jobs=1))
    assert not idle.improved(GOALS["success"])
    assert idle.change is None
    assert idle.best == idle.before


def test_requests_that_come_all_at_once_cannot_be_divided() -> None:
    asked = shared_prefixes(groups=1).requests()
    at_once = GivenWorkload(name="burst", requests=tuple(replace(one, arrival=0.0) for one in asked))
    with pytest.raises(ConfigError, match="at once"):
        tune(find_space("brief"), at_once, FLEET, TuneOptions(goal=GOALS["p50_ttft"], jobs=1))


@pytest.mark.parametrize(("options", "words"), [({"variants": 1}, "--variants"), ({"held_out": 0.0}, "--held-out")])
def test_options_that_make_no_sense_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tune(find_space("brief"), workload(), FLEET, TuneOptions(goal=GOALS["p50_ttft"], **options))  # type: ignore[arg-type]
