"""What headers ask for, who really served, and what the answer is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import cast

import pytest
from tests.builders import make_endpoint, make_endpoints
from tests.requestcontrol.rig import CHAT, Rig, chosen, write_config

from pointsman.api.endpoint import EndpointId
from pointsman.api.request import RequestHead
from pointsman.errors import NoEndpointsError
from pointsman.requestcontrol.live import LiveExchange

PODS = make_endpoints(3)


class TestHeaders:
    def test_hints_reach_the_request(self) -> None:
        rig = Rig()
        headers = {
            "x-llm-d-inference-fairness-id": "tenant",
            "x-gateway-inference-objective": "gold",
            "x-slo-ttft-ms": "200",
            "x-slo-tpot-ms": "soon",
        }
        request = rig.ask(headers=headers).decision.request
        assert (request.fairness_id, request.objective, request.priority) == ("tenant", "gold", 0)
        assert (request.slo_ttft_ms, request.slo_tpot_ms) == (200.0, None)
        assert rig.count("degraded_total", kind="slo-header") == 1
        assert rig.ask().decision.request.fairness_id == "default-flow"

    def test_a_rewrite_changes_the_body_and_who_may_serve(self) -> None:
        rig = Rig(endpoints=[make_endpoint(0, model="m"), make_endpoint(1, model="n")])
        exchange = rig.ask(headers={"x-llm-d-model-name-rewrite": "n"})
        assert chosen(exchange) == "default/pod-1"
        decision = exchange.decision
        assert decision.renamed
        assert decision.body is not None
        assert json.loads(decision.body)["model"] == "n"
        assert (decision.request.model, decision.record.model) == ("m", "m")
        assert not rig.ask(headers={"x-llm-d-model-name-rewrite": "m"}).decision.renamed
        with pytest.raises(NoEndpointsError):
            rig.ask(headers={"x-llm-d-model-name-rewrite": "z"})

    def test_headers_of_the_pickers_own_are_taken_from_clients(self) -> None:
        decision = Rig().ask(headers={"x-prefiller-host-port": "evil:1", "x-other": "1"}).decision
        assert decision.remove_headers == ("x-prefiller-host-port",)
        assert Rig().ask().decision.remove_headers == ()

    def test_a_body_that_is_not_shown_is_counted(self) -> None:
        rig = Rig()
        head = RequestHead({":method": "POST", ":path": CHAT}, body_unseen=True)
        assert chosen(rig.decide(head, b"", received=math.inf))
        assert rig.count("degraded_total", kind="no-body") == 1


class TestServed:
    def test_by_the_one_that_was_picked(self) -> None:
        rig = Rig(endpoints=PODS)
        exchange = cast("LiveExchange", rig.ask())
        hostport = exchange.decision.endpoints[0].hostport
        exchange.served(hostport)
        assert rig.ledger.load(EndpointId(chosen(exchange))).requests == 1
        exchange.end("complete")
        assert exchange.decision.record.view()["served"] == hostport

    def test_by_another_one_of_ours(self) -> None:
        rig = Rig(endpoints=PODS)
        exchange = cast("LiveExchange", rig.ask())
        other = next(pod for pod in PODS if pod.id != chosen(exchange))
        exchange.served(other.hostport)
        assert rig.ledger.load(EndpointId(chosen(exchange))).requests == 0
        assert rig.ledger.load(other.id).requests == 1
        exchange.response_headers(503, event_stream=False)
        exchange.end("complete")
        assert rig.ends == [(other.id, 503)]
        assert rig.ledger.totals() == (0, 0)
        exchange.served(PODS[0].hostport)
        assert rig.ledger.totals() == (0, 0)

    def test_by_someone_unknown(self) -> None:
        rig = Rig(endpoints=PODS)
        exchange = cast("LiveExchange", rig.ask())
        exchange.served("192.0.2.1:80")
        assert rig.ledger.totals() == (0, 0)
        exchange.response_body(b"x", last=True)
        exchange.end("complete")
        assert rig.ledger.totals() == (0, 0)
        assert exchange.decision.record.served == "192.0.2.1:80"


BROKEN = """
from pointsman.framework.plugin import *

class NoParams(Params, frozen=True):
    pass

@register("broken-headers")
class BrokenHeaders(Plugin[NoParams], AnswerHeaders):
    def answer_headers(self, request, chosen, served):
        raise KeyError("x")
"""


def test_headers_on_the_answer(tmp_path: Path) -> None:
    assert Rig().ask().decision.answer_headers is None
    also = ["broken-headers", "destination-endpoint-served-verifier"]
    rig = Rig(write_config(tmp_path, ["queue-scorer"], also=also, code=BROKEN))
    ask = rig.ask().decision.answer_headers
    assert ask is not None
    assert ask("10.0.0.1:8000") == {"x-conformance-test-served-endpoint": "10.0.0.1:8000"}
    assert rig.count("plugin_errors_total", plugin="broken-headers", point="answer-headers") == 1
