"""Objectives and rewrites on the way through the Director."""

from __future__ import annotations

import json

from tests.requestcontrol.rig import Rig

from pointsman.requestcontrol.policies import ModelPolicies, RewriteRule, RewriteTarget

CANARY = RewriteRule("canary", ("m",), (RewriteTarget("m-v2"),))


def test_the_objective_gives_the_priority() -> None:
    rig = Rig()
    rig.director.policies = ModelPolicies({"batch": -3})
    for header in ("x-llm-d-inference-objective", "x-gateway-inference-objective"):
        assert rig.ask(headers={header: "batch"}).decision.request.priority == -3
    assert rig.ask(headers={"x-llm-d-inference-objective": "other"}).decision.request.priority == 0
    assert rig.ask().decision.request.priority == 0


def test_a_rewrite_changes_the_body_and_the_answer_is_to_be_put_right() -> None:
    rig = Rig()
    rig.director.policies = ModelPolicies({}, [CANARY])
    decision = rig.ask("hello").decision
    assert decision.renamed
    assert decision.body is not None
    assert json.loads(decision.body)["model"] == "m-v2"
    assert (decision.request.model, decision.request.target_model) == ("m", "m-v2")
    untouched = rig.ask("hello", model="another").decision
    assert not untouched.renamed
    assert untouched.body is None


def test_a_rule_beats_the_header() -> None:
    rig = Rig()
    header = {"x-llm-d-model-name-rewrite": "by-header"}
    assert rig.ask(headers=header).decision.request.target_model == "by-header"
    rig.director.policies = ModelPolicies({}, [CANARY])
    assert rig.ask(headers=header).decision.request.target_model == "m-v2"
    assert rig.ask(headers=header, model="another").decision.request.target_model == "by-header"


def test_policies_count_from_the_next_request_on() -> None:
    rig = Rig()
    before = rig.ask()
    rig.director.policies = ModelPolicies({}, [CANARY])
    assert not before.decision.renamed
    assert rig.ask().decision.renamed
