from __future__ import annotations

from pathlib import Path

import pytest
from tests.requestcontrol.rig import Rig, chosen, write_config

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.errors import ConfigError

RANKS = [
    Endpoint(EndpointId(f"default/pod-{pod}-rank-{rank}"), f"10.0.0.{pod}", 8001 + rank, slot=2 * pod + rank)
    for pod in range(2)
    for rank in range(2)
]


def test_the_request_goes_to_the_primary_port_and_says_which_rank(tmp_path: Path) -> None:
    rig = Rig(write_config(tmp_path, ["max-score-picker"], also=["data-parallel-profile-handler"]), RANKS)
    seen = []
    for _ in range(4):
        exchange = rig.ask(headers={"x-data-parallel-host-port": "evil:1"})
        decision = exchange.decision
        assert "x-data-parallel-host-port" not in decision.remove_headers, "ours is set in its place"
        seen.append((chosen(exchange), decision.destination, decision.headers["x-data-parallel-host-port"]))
        assert rig.ledger.load(decision.endpoints[0].id).requests == 1, "each rank is counted by itself"
    assert seen == [
        ("default/pod-0-rank-0", "10.0.0.0:8000", "10.0.0.0:8001"),
        ("default/pod-0-rank-1", "10.0.0.0:8000", "10.0.0.0:8002"),
        ("default/pod-1-rank-0", "10.0.0.1:8000", "10.0.0.1:8001"),
        ("default/pod-1-rank-1", "10.0.0.1:8000", "10.0.0.1:8002"),
    ]


def test_the_primary_port_serving_is_no_news(tmp_path: Path) -> None:
    rig = Rig(write_config(tmp_path, ["max-score-picker"], also=["data-parallel-profile-handler"]), RANKS)
    exchange = rig.ask()
    exchange.served("10.0.0.0:8000")
    assert rig.ledger.load(RANKS[0].id).requests == 1
    exchange.end("complete")
    assert rig.ledger.totals() == (0, 0)


def test_another_port(tmp_path: Path) -> None:
    parameters = {"data-parallel-profile-handler": {"primaryPort": 9000}}
    config = write_config(tmp_path, ["max-score-picker"], also=[*parameters], parameters=parameters)
    assert Rig(config, RANKS).ask().decision.destination == "10.0.0.0:9000"


def test_takes_one_profile(tmp_path: Path) -> None:
    profiles = [{"name": "a", "plugins": []}, {"name": "b", "plugins": []}]
    config = write_config(tmp_path, [], also=["data-parallel-profile-handler"], schedulingProfiles=profiles)
    with pytest.raises(ConfigError, match=r"plugins\[0\]: data-parallel-profile-handler takes exactly one profile, 2"):
        Rig(config)
