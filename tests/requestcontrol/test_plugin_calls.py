"""Headers and flows that plugins name: set, counted when they fail, and never in the way of the request."""

from __future__ import annotations

from pathlib import Path

from tests.requestcontrol.rig import Rig, write_config

CODE = """
from pointsman.framework.plugin import FlowIdentity, Params, Plugin, RequestHeaders, register


@register("helpful")
class Helpful(Plugin[Params], RequestHeaders, FlowIdentity):
    def request_headers(self, request, result, state):
        return {"x-zone": result.chosen.id, "x-kv-cache-source-host-port": "10.0.0.9:1"}

    def flow_of(self, request):
        return request.headers.get("x-team", "")


@register("broken")
class Broken(Plugin[Params], RequestHeaders, FlowIdentity):
    def request_headers(self, request, result, state):
        raise ValueError("no")

    def flow_of(self, request):
        raise ValueError("no")
"""


def test_what_plugins_name_is_set_in_place_of_the_clients(tmp_path: Path) -> None:
    rig = Rig(write_config(tmp_path, ["max-score-picker"], also=["broken", "helpful"], code=CODE))
    sent = {"x-team": "blue", "x-kv-cache-source-host-port": "evil:1", "x-prefiller-host-port": "evil:2"}
    decision = rig.ask(headers=sent).decision
    assert decision.headers["x-zone"] == "default/pod-0"
    assert decision.headers["x-kv-cache-source-host-port"] == "10.0.0.9:1"
    assert decision.remove_headers == ("x-prefiller-host-port",)
    assert decision.request.fairness_id == "blue"
    assert rig.ask().decision.request.fairness_id == "default-flow"
    for point in ("request-headers", "flow"):
        assert rig.count("plugin_errors_total", plugin="broken", point=point) == 2


def test_without_such_plugins_nothing_is_set(tmp_path: Path) -> None:
    decision = Rig(write_config(tmp_path, ["max-score-picker"])).ask(headers={"x-team": "blue"}).decision
    assert set(decision.headers) == {"x-request-id"}
    assert decision.request.fairness_id == "default-flow"
