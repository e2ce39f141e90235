"""Configurations with one plugin of llm-d's each, through the Director: they load, and the plugin has its say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.builders import make_endpoints
from tests.requestcontrol.rig import Rig, chosen, write_config

from pointsman.errors import AdmissionDeniedError
from pointsman.requestcontrol.policies import ModelPolicies

LONG = "word " * 400
BATCH = {"x-llm-d-inference-objective": "batch"}


def rig(folder: Path, *profile: str, also: tuple[str, ...] = (), endpoints: Any = None, **parameters: Any) -> Rig:
    named = {name.replace("_", "-"): values for name, values in parameters.items()}
    made = Rig(write_config(folder, profile, also=also, parameters=named), endpoints)
    made.director.policies = ModelPolicies({"batch": -1})
    return made


def test_a_burst_stays_together(tmp_path: Path) -> None:
    scorer = {"prefixMatchInfoProducerName": "burst-prefix-cache-producer"}
    one = rig(tmp_path, "prefix-cache-scorer", also=("burst-prefix-cache-producer",), prefix_cache_scorer=scorer)
    burst = [chosen(one.ask(LONG)) for _ in range(4)]
    assert len(set(burst)) == 1
    assert chosen(one.ask("other " * 400)) != burst[0]
    one.clock.advance(0.2)
    assert chosen(one.ask(LONG)) != burst[0], "the window is over, and that one was picked last but one"


def test_blocks_are_fetched_from_who_has_them(tmp_path: Path) -> None:
    one = rig(tmp_path, "round-robin-picker", also=("p2p-source-producer",), endpoints=make_endpoints(3))
    found = [one.ask(LONG).decision.headers.get("x-kv-cache-source-host-port") for _ in range(4)]
    assert found[0] is None
    assert found[1] == "10.0.0.0:8000"
    assert found[2] in {"10.0.0.0:8000", "10.0.0.1:8000"}
    assert found[3] is None, "round again: it has them itself"


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        (BATCH | {"x-llm-d-slo-ttft-ms": "0.01"}, True),
        (BATCH | {"x-llm-d-slo-ttft-ms": "60000"}, False),
        (BATCH, False),
        ({"x-llm-d-slo-ttft-ms": "0.01"}, False),
    ],
)
def test_objectives_that_cannot_be_met(tmp_path: Path, headers: dict[str, str], refused: bool) -> None:
    busy = make_endpoints(2, running=8, kv_usage=0.6)
    one = rig(tmp_path, "max-score-picker", also=("latency-slo-admitter",), endpoints=busy)
    if not refused:
        assert one.ask(LONG, headers=headers).decision.endpoints
        return
    with pytest.raises(AdmissionDeniedError, match="latency objectives") as caught:
        one.ask(LONG, headers=headers)
    assert caught.value.http_status == 429
    assert one.ledger.totals() == (0, 0)


def test_sheddable_requests_on_a_full_pool(tmp_path: Path) -> None:
    one = rig(tmp_path, "max-score-picker", also=("probabilistic-admitter",), endpoints=make_endpoints(2, waiting=50))
    with pytest.raises(AdmissionDeniedError, match="sheddable"):
        one.ask(headers=BATCH)
    assert one.ask().decision.endpoints


@pytest.mark.parametrize(
    ("producer", "header"), [("session-id-producer", "x-session-id"), ("agent-identity", "session-id")]
)
def test_a_session_keeps_its_place(tmp_path: Path, producer: str, header: str) -> None:
    attribute = "session-id" if producer == "session-id-producer" else "agent-identity"
    affinity = {"strategy": "session_id", "sessionIdConfig": {"sources": [{"attribute": attribute}]}}
    one = rig(tmp_path, "session-affinity-scorer", also=(producer,), session_affinity_scorer=affinity)
    first, other, again = (chosen(one.ask(headers={header: name})) for name in ("a", "b", "a"))
    assert first == again != other
