from __future__ import annotations

from pathlib import Path

import pytest
from tests.builders import make_plugin, make_request
from tests.requestcontrol.rig import Rig, write_config

from pointsman.framework.keys import request_attribute_key
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.agent_identity import AgentIdentity


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ""),
        ({"session_id": "d"}, "d"),
        ({"session-id": "c", "session_id": "d"}, "c"),
        ({"x-session-affinity": "b", "session-id": "c"}, "b"),
        ({"x-claude-code-session-id": "a", "x-session-affinity": "b"}, "a"),
        ({"x-mine": "own", "x-claude-code-session-id": "a"}, "own"),
        ({"x-mine": " ", "session-id": "c"}, "c"),
    ],
)
def test_order(headers: dict[str, str], expected: str) -> None:
    plugin = make_plugin(AgentIdentity, additionalSessionHeaders=["X-Mine"])
    request = make_request(headers=headers)
    assert plugin.flow_of(request) == expected
    state = CycleState()
    plugin.produce(request, [], state)
    assert state.get(request_attribute_key("agent-identity"), "") == expected


def test_it_names_the_flow_unless_the_client_does(tmp_path: Path) -> None:
    rig = Rig(write_config(tmp_path, ["random-picker"], also=["agent-identity"]))
    agent = {"session-id": "codex-7"}
    flows = [
        rig.ask(headers=headers).decision.request.fairness_id
        for headers in ({}, agent, agent | {"x-llm-d-inference-fairness-id": "tenant"})
    ]
    assert flows == ["default-flow", "codex-7", "tenant"]
