"""Runs of the live Director on simulated engines."""

from __future__ import annotations

import itertools
import math
from array import array
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.lab.lab_builders import ids, shared_prefixes

from pointsman.api.request import RequestHead
from pointsman.errors import ConfigError
from pointsman.lab.options import Fault, FleetOptions
from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.lab.results import RunResult
from pointsman.lab.runner import Run, simulate
from pointsman.requestcontrol.exchange import is_pending

FLEET = FleetOptions(pods=4)


def encoded(result: RunResult) -> bytes:
    result.wall_s = 0.0
    return msgspec.json.encode(result)


@pytest.mark.parametrize("policy", ["default", "precise", "brief", "llm-d", "round-robin", "random", "least-request"])
def test_every_request_is_answered_and_the_same_seed_gives_the_same_bytes(policy: str) -> None:
    first, second = (simulate(policy, shared_prefixes(), FLEET) for _ in range(2))
    assert first.summary()["success"] == 1.0
    assert all(0 < row.first_token < row.end for row in first.rows)
    assert encoded(first) == encoded(second)
    assert not first.failures


def test_another_seed_gives_another_run() -> None:
    other = FleetOptions(pods=4, seed=2)
    assert encoded(simulate("random", shared_prefixes(), FLEET)) != encoded(
        simulate("random", shared_prefixes(), other)
    )


def test_what_is_predicted_is_what_the_engine_finds() -> None:
    result = simulate("precise", shared_prefixes(qps=1.0), FLEET)
    assert [row.predicted_tokens for row in result.rows] == [row.cached_tokens for row in result.rows]
    assert sum(row.cached_tokens for row in result.rows) > 0


def test_prefix_aware_policies_hit_and_blind_ones_do_not() -> None:
    rates = {policy: float(str(simulate(policy, shared_prefixes(), FLEET).summary()["hit_rate"])) for policy in
             ("default", "precise", "round-robin")}  # fmt: skip
    assert rates["default"] > rates["round-robin"] + 0.2
    assert rates["precise"] > rates["round-robin"] + 0.2


def test_the_live_path_decides_the_same_of_the_same_facts() -> None:
    """Bodies through the parser and the Director, as from Envoy, against the lab's own requests."""
    workload = shared_prefixes(qps=2.0)
    lab = simulate("precise", workload, FLEET)
    live = Run("precise", workload, FLEET)

    class Bodies:
        def __init__(self, run: Run) -> None:
            self.inner = run.director

        def decide_parsed(self, request: object) -> object:
            tokens, name = request.token_ids, request.id  # type: ignore[attr-defined]
            body = {"model": "lab", "prompt": list(tokens), "max_tokens": 30, "stream": True}
            head = RequestHead({":method": "POST", ":path": "/v1/completions", "x-request-id": name})
            found = self.inner.decide(head, msgspec.json.encode(body), received=math.inf)
            assert not is_pending(found)
            return found

    live.director = Bodies(live)  # type: ignore[assignment]
    result = live.run()
    assert [(row.id, row.pod) for row in result.rows] == [(row.id, row.pod) for row in lab.rows]
    assert len({row.pod for row in lab.rows}) > 1


def test_a_pod_that_dies_takes_only_what_it_has_in_hand() -> None:
    killed = FleetOptions(pods=4, faults=(Fault(at=3.0, kind="kill", pod=0, detect=1.0),))
    result = simulate("round-robin", shared_prefixes(qps=8.0, output=200), killed)
    lost = [row for row in result.rows if row.status != 200]
    assert lost
    assert all(row.pod == 0 and row.arrival < 3.0 for row in lost)
    assert not any(row.pod == 0 for row in result.rows if row.arrival > 3.0)


def test_a_new_pod_is_used() -> None:
    grown = FleetOptions(pods=2, faults=(Fault(at=1.0, kind="add"),))
    rows = simulate("least-request", shared_prefixes(qps=8.0, output=200), grown).rows
    assert {row.pod for row in rows if row.arrival > 2.0} == {0, 1, 2}


def test_a_new_pod_takes_its_time_to_start() -> None:
    grown = FleetOptions(pods=2, faults=(Fault(at=1.0, kind="add", ready=1.5),))
    rows = simulate("least-request", shared_prefixes(qps=8.0, output=200), grown).rows
    assert min(row.arrival for row in rows if row.pod == 2) >= 2.5


def test_a_pod_that_slows_down_does_so_from_its_next_step_on() -> None:
    slowed = FleetOptions(pods=1, faults=(Fault(at=1.0, kind="slow", factor=3.0),))
    request = LabRequest(id="a", arrival=0.0, tokens=ids("a", 100), max_tokens=101)
    plain = simulate("random", FixedWorkload("one", [request]), FleetOptions(pods=1)).rows[0]
    row = simulate("random", FixedWorkload("one", [request]), slowed).rows[0]
    assert row.end - 1.0 == pytest.approx(3 * (plain.end - 1.0), rel=0.05)


@pytest.mark.parametrize("policy", ["precise", "llm-d"])
def test_stretches_of_steps_are_as_good_as_steps(policy: str) -> None:
    options = FleetOptions(pods=3, faults=(Fault(at=2.0, kind="slow", pod=0, factor=2.0),))
    workload = shared_prefixes(qps=8.0, output=150)
    one = Run(policy, workload, options)
    for pod in one.fleet.pods.values():
        pod.engine.stretch = partial(pod.engine._stretch.plan, quiet=False)  # type: ignore[method-assign]
    expected, found = one.run(), simulate(policy, workload, options)
    assert [(row.id, row.pod, row.cached_tokens) for row in found.rows] == [
        (row.id, row.pod, row.cached_tokens) for row in expected.rows
    ]
    assert [row.end for row in found.rows] == pytest.approx([row.end for row in expected.rows])
    assert [(sample.running, sample.kv_usage) for sample in found.load] == [
        (sample.running, sample.kv_usage) for sample in expected.load
    ]
    assert one._planned > 3 * len(expected.rows)


def test_a_slow_pod_is_slow() -> None:
    rows = simulate("round-robin", shared_prefixes(), FleetOptions(pods=4, speeds=(3.0,))).rows
    slow = [row.tpot_ms for row in rows if row.pod == 0]
    fast = [row.tpot_ms for row in rows if row.pod == 1]
    assert min(value for value in slow if value) > 2 * max(value for value in fast if value)


def test_a_request_longer_than_the_model_allows_is_refused_and_the_run_goes_on() -> None:
    workload = FixedWorkload(
        "long",
        [
            LabRequest(id="long", arrival=0.0, tokens=array("I", [1]) * 50_000, max_tokens=1),
            LabRequest(id="short", arrival=1.0, tokens=ids("short", 10), max_tokens=2),
        ],
    )
    result = simulate("default", workload, FLEET)
    assert [row.status for row in result.rows] == [400, 200]


def test_an_empty_fleet_refuses_with_503() -> None:
    result = simulate("default", shared_prefixes(groups=1), FleetOptions(pods=0))
    assert {row.status for row in result.rows} == {503}


def test_answers_bring_the_next_question() -> None:
    class Chat(FixedWorkload):
        def follow(self, done: LabRequest, now: float) -> LabRequest | None:
            if len(done.tokens) > 300:
                return None
            return LabRequest(id=f"{done.id}+", arrival=now + 1.0, tokens=done.tokens + ids(done.id, 100), max_tokens=5)

    first = LabRequest(id="a", arrival=0.0, tokens=ids("a", 100), max_tokens=5)
    rows = simulate("precise", Chat("chat", [first]), FLEET).rows
    assert [row.id for row in rows] == ["a", "a+", "a++", "a+++"]
    assert all(later.arrival == pytest.approx(row.end + 1.0) for row, later in itertools.pairwise(rows))
    assert {row.pod for row in rows} == {rows[0].pod}


def test_an_unknown_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        simulate(str(tmp_path / "nothing.yaml"), shared_prefixes(), FLEET)
