"""Policies by name: the list, and every one of them at work in the lab and in a live picker's inside."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.builders import make_request
from tests.lab.lab_builders import shared_prefixes
from tests.requestcontrol.rig import Rig

from pointsman.errors import ConfigError
from pointsman.framework.keys import PRECISE_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import Scorer
from pointsman.framework.state import CycleState
from pointsman.lab.options import FleetOptions
from pointsman.lab.policies import DESCRIPTIONS, POLICIES, policy_source, with_documented_scraping
from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.lab.results import RunResult
from pointsman.lab.runner import Run, simulate

FLEET = FleetOptions(pods=4)
NAMES = (
    "round-robin random least-request power-of-two chwbl llm-d llm-d-guide llm-d-sticky sglang dynamo dynamo-tuned "
    "lmetric preble session-pin brief default precise"
)


def busy() -> FixedWorkload:
    """Enough at once that loads differ and tokens are in flight."""
    return shared_prefixes(groups=12, qps=40.0, prefix=2000)


def encoded(result: RunResult) -> bytes:
    result.wall_s = 0.0
    return msgspec.json.encode(result)


def test_the_names_are_these() -> None:
    assert list(POLICIES) == NAMES.split()
    assert list(DESCRIPTIONS) == NAMES.split()


@pytest.mark.parametrize("name", POLICIES)
def test_each_runs_without_failure_or_degradation_and_repeats_byte_for_byte(name: str) -> None:
    first, second = (simulate(policy_source(name), busy(), FLEET) for _ in range(2))
    assert first.summary()["success"] == 1.0
    assert not first.failures
    assert not first.degraded
    assert encoded(first) == encoded(second)


@pytest.mark.parametrize("name", POLICIES)
def test_each_decides_live_traffic_from_the_same_file(name: str) -> None:
    rig = Rig(policy_source(name))
    for number in range(20):
        exchange = rig.ask(f"hello {number % 3} " * 100, stream=True, headers={"x-session-id": f"s{number % 2}"})
        exchange.response_headers(200, event_stream=True)
        exchange.response_body(b'data: {"choices":[]}\n\n', last=False)
        if number % 2:
            exchange.end("complete")
    failures = [sample for family in rig.metrics.registry.collect() if "plugin_error" in family.name
                for sample in family.samples if sample.name.endswith("_total")]  # fmt: skip
    assert failures == []
    assert rig.ledger.totals()[0] == 10


@pytest.mark.parametrize("name", ["dynamo", "dynamo-tuned", "lmetric", "llm-d-sticky", "preble"])
def test_rivals_that_see_every_token_do_so_here(name: str) -> None:
    assert Rig(policy_source(name)).plan.config.observe_share == 1.0


def test_what_a_rival_counts_is_nought_when_all_is_over() -> None:
    run = Run(policy_source("dynamo"), busy(), FLEET)
    run.run()
    plugin = run.director.plan.plugins["dynamo-cost-scorer"]
    assert isinstance(plugin, Scorer)
    found = CycleState()
    found.write(prefix_match_key(PRECISE_PREFIX_PRODUCER), PrefixMatch(16, 10))
    scores = plugin.score(make_request(prompt_tokens=160), run.fleet.datastore.snapshot(), found)
    assert scores == pytest.approx([1 / (1 + 10)] * 4)


def test_a_preset_is_reached_although_a_policy_has_its_name() -> None:
    assert policy_source("llm-d") != "llm-d"
    assert policy_source("preset:llm-d") == "llm-d"


def test_a_file_is_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("scorers:\n- {type: active-request-scorer}\n", "utf-8")
    assert policy_source(str(file)) == str(file)


@pytest.mark.parametrize("name", ["dynmo", "preset:nothing", "/no/such/file.yaml", ""])
def test_an_unknown_name_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(ConfigError, match="no such policy") as caught:
        policy_source(name)
    assert "round-robin" in str(caught.value)
    assert ("did you mean 'dynamo'" in str(caught.value)) == (name == "dynmo")


def test_gauges_are_read_as_often_as_a_router_documents() -> None:
    assert with_documented_scraping("llm-d", FLEET).scrape_period == 0.05
    assert with_documented_scraping("dynamo", FLEET) is FLEET


def test_prefix_aware_rivals_hit_more_than_blind_ones() -> None:
    rates = {name: float(str(simulate(policy_source(name), busy(), FLEET).summary()["hit_rate"])) for name in POLICIES}
    blind = max(rates[name] for name in ("round-robin", "random", "least-request", "power-of-two"))
    aware = ("chwbl", "llm-d", "llm-d-guide", "llm-d-sticky", "sglang", "dynamo-tuned", "lmetric", "preble", "default")
    assert min(rates[name] for name in aware) > blind


def test_a_session_stays_where_it_began() -> None:
    requests = [
        LabRequest(id=f"r{n}", arrival=n / 20, tokens=request.tokens, max_tokens=50, session=f"s{n % 7}")
        for n, request in enumerate(shared_prefixes(groups=10).requests())
    ]
    rows = simulate(policy_source("session-pin"), FixedWorkload("sessions", requests), FLEET).rows
    assert len({row.pod for row in rows}) == 4
    assert len({(row.session, row.pod) for row in rows}) == 7
