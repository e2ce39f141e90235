from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.builders import make_endpoint
from tests.requestcontrol.rig import Rig, chosen, write_config

from pointsman.errors import BadRequestError, ConfigError

PODS = [make_endpoint(slot, labels={"llm-d.ai/role": role}) for slot, role in enumerate(["prefill", "decode"])]


def rig(folder: Path, profiles: tuple[str, ...] = ("prefill", "decode"), **parameters: Any) -> Rig:
    entries = [{"name": name, "plugins": [{"pluginRef": f"{name}-filter"}]} for name in profiles]
    config = write_config(
        folder,
        [],
        also=["header-profile-handler", "prefill-filter", "decode-filter"],
        parameters={"header-profile-handler": parameters},
        schedulingProfiles=entries,
    )
    return Rig(config, PODS)


@pytest.mark.parametrize(
    ("headers", "slot"),
    [({"epp-profile": "prefill"}, 0), ({"epp-profile": "decode"}, 1), ({}, 1), ({"epp-profile": " "}, 1)],
)
def test_the_header_names_the_profile(tmp_path: Path, headers: dict[str, str], slot: int) -> None:
    assert chosen(rig(tmp_path).ask(headers=headers)) == f"default/pod-{slot}"


def test_a_profile_that_is_not_there_is_the_clients_mistake(tmp_path: Path) -> None:
    one = rig(tmp_path)
    with pytest.raises(BadRequestError, match="header EPP-Profile: there is no profile 'Prefill'"):
        one.ask(headers={"epp-profile": "Prefill"})
    assert one.count("refusals_total", reason="bad-request") == 1
    assert one.ledger.totals() == (0, 0)


def test_the_only_profile_runs_anyway(tmp_path: Path) -> None:
    assert chosen(rig(tmp_path, ("prefill",)).ask(headers={"epp-profile": "decode"})) == "default/pod-0"


def test_parameters(tmp_path: Path) -> None:
    own = rig(tmp_path, headerName="X-Stage", defaultProfile="prefill")
    assert chosen(own.ask()) == "default/pod-0"
    assert chosen(own.ask(headers={"x-stage": "decode"})) == "default/pod-1"
    with pytest.raises(ConfigError, match=r"plugins\[0\]: parameters.defaultProfile: no profile is named 'x'"):
        rig(tmp_path, defaultProfile="x")
