"""llm-d's filters and scorers through the director: real ledger, real prefix index, real answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.builders import make_endpoint, make_endpoints
from tests.requestcontrol.rig import Rig, chosen, write_config

from pointsman.errors import NoEndpointsError

LONG = "a story " * 1000  # 8,000 bytes, about 2,000 tokens


@pytest.mark.parametrize("plugin", ["session-affinity-filter", "session-affinity-scorer"])
def test_an_answers_header_leads_back(plugin: str, tmp_path: Path) -> None:
    rig = Rig(write_config(tmp_path, [plugin]))
    first = rig.ask()
    assert first.decision.answer_headers
    headers = dict(first.decision.answer_headers(""))
    assert set(headers) == {"x-session-token"}
    assert {chosen(rig.ask(headers=headers)) for _ in range(5)} == {chosen(first)}
    assert chosen(rig.ask()) != chosen(first), "others go elsewhere"


@pytest.mark.parametrize("plugin", ["session-affinity-filter", "session-affinity-scorer"])
def test_a_session_by_its_id_moves_when_its_endpoint_is_gone(plugin: str, tmp_path: Path) -> None:
    sources = {"strategy": "session_id", "sessionIdConfig": {"sources": [{"attribute": "session-id"}]}}
    producer = {"session-id-producer": {"cookieName": "chat"}}
    rig = Rig(
        write_config(tmp_path, [plugin], also=["session-id-producer"], parameters={plugin: sources, **producer}),
        make_endpoints(4),
    )
    headers = {"cookie": "theme=dark; chat=42"}
    first = chosen(rig.ask(headers=headers))
    assert {chosen(rig.ask(headers=headers)) for _ in range(5)} == {first}
    rig.endpoints = tuple(endpoint for endpoint in rig.endpoints if endpoint.id != first)
    second = chosen(rig.ask(headers=headers))
    assert second != first
    assert {chosen(rig.ask(headers=headers)) for _ in range(5)} == {second}


def test_sticky_until_saturated_within_one_burst(tmp_path: Path) -> None:
    gate = {"prefix-cache-affinity-filter": {"peakPrefillThroughput": 1000, "maxTTFTPenaltyMs": 3000}}
    profile = ["prefix-cache-affinity-filter", "token-load-scorer"]
    rig = Rig(write_config(tmp_path, profile, parameters=gate), make_endpoints(4))
    # 2,000 tokens uncached, 2 s at the peak: within the penalty, so the prompt stays at its endpoint.
    home = chosen(rig.ask(LONG))
    assert {chosen(rig.ask(LONG)) for _ in range(5)} == {home}
    # Long prompts of others, all of them sent there by the proxy's subset: 6 s of work, and the valve opens.
    address = next(endpoint.hostport for endpoint in rig.endpoints if endpoint.id == home)
    for name in ("x", "y"):
        assert chosen(rig.ask(name + LONG, subset=(address,))) == home
    assert chosen(rig.ask(LONG)) != home


def test_a_decode_never_goes_to_a_prefill_endpoint(tmp_path: Path) -> None:
    prefill = make_endpoint(0, labels={"llm-d.ai/role": "prefill"})
    rig = Rig(write_config(tmp_path, ["decode-filter"]), [prefill, make_endpoint(1)])
    assert {chosen(rig.ask()) for _ in range(4)} == {"default/pod-1"}
    rig.endpoints = (prefill,)
    with pytest.raises(NoEndpointsError):
        rig.ask()


def test_objectives_keep_requests_off_busy_endpoints(tmp_path: Path) -> None:
    parameters = {"slo-headroom-tier-filter": {"epsilonExploreNeg": 0}}
    rig = Rig(
        write_config(tmp_path, ["slo-headroom-tier-filter"], parameters=parameters),
        make_endpoints(3),
    )
    busy = rig.endpoints[0]
    for number in range(10):
        rig.ask(f"{number} {LONG}", subset=(busy.hostport,))
    objective = {"x-llm-d-slo-ttft-ms": "300"}  # a prompt of 2,000 tokens alone takes about 110 ms
    went = {chosen(rig.ask("short", headers=objective)) for _ in range(20)}
    assert busy.id not in went
    (run,) = rig.plan.scheduler.profiles.values()
    assert [plugin.type for plugin in run.filters] == ["slo-headroom-tier-filter"]
    assert not run.scorers, "without it they would have taken turns"


def test_a_label_on_the_answer(tmp_path: Path) -> None:
    endpoints = [make_endpoint(0, labels={"zone": "a"}), make_endpoint(1, labels={"zone": "b"})]
    parameters = {"header-label-affinity-scorer": {"headerName": "x-zone", "labelKey": "zone"}}
    rig = Rig(write_config(tmp_path, ["header-label-affinity-scorer"], parameters=parameters), endpoints)
    found = rig.ask(headers={"x-zone": "b"})
    assert chosen(found) == "default/pod-1"
    assert found.decision.answer_headers
    assert found.decision.answer_headers("") == {"x-zone": "b"}
    assert found.decision.answer_headers(endpoints[0].hostport) == {"x-zone": "a"}
