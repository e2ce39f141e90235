"""Disaggregation through the Director: roles by label, headers and targets, and what happens when a stage cannot be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.builders import make_endpoint
from tests.requestcontrol.rig import CHAT, Rig, chosen, write_config

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import RequestHead
from pointsman.errors import ConfigError, NoEndpointsError
from pointsman.extproc import wire
from pointsman.extproc.stream import Stream
from pointsman.framework.keys import PEER_ENDPOINT_KEY
from pointsman.requestcontrol.exchange import Exchange

STAGES = ("encode", "prefill", "decode")
PREFILL, ENCODE = "x-prefiller-host-port", "x-encoder-hosts-ports"
LONG = "word " * 400
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


def pods(*roles: str) -> list[Endpoint]:
    return [make_endpoint(slot, labels={"llm-d.ai/role": role}) for slot, role in enumerate(roles)]


def config(
    folder: Path,
    also: Sequence[str] = (),
    stages: Sequence[str] = STAGES,
    kind: str = "disagg-profile-handler",
    **p: Any,
) -> Path:
    profiles = [{"name": stage, "plugins": [{"pluginRef": f"{stage}-filter"}]} for stage in stages]
    plugins = [kind, *also, *(f"{stage}-filter" for stage in stages)]
    return write_config(folder, [], also=plugins, parameters={kind: p}, schedulingProfiles=profiles)


def always(folder: Path, *roles: str, **parameters: Any) -> Rig:
    deciders = {"prefill": "always-disagg-pd-decider", "encode": "always-disagg-multimodal-decider"}
    return Rig(config(folder, [*deciders.values()], deciders=deciders, **parameters), pods(*roles))


def headers(exchange: Exchange) -> dict[str, str]:
    found = exchange.decision.headers
    return {name: found[name] for name in (PREFILL, ENCODE, "x-data-parallel-host-port") if name in found}


def stats(rig: Rig) -> dict[str, int]:
    return dict(rig.plan.scheduler.handler.stats())


def test_one_decodes_another_prefills(tmp_path: Path) -> None:
    rig = always(tmp_path, "prefill", "decode", "prefill")
    exchange = rig.ask()
    assert (chosen(exchange), exchange.decision.destination) == ("default/pod-1", "10.0.0.1:8000")
    assert headers(exchange) == {PREFILL: "10.0.0.0:8000"}
    assert headers(rig.ask()) == {PREFILL: "10.0.0.2:8000"}, "the ledger knows of the prefill at pod 0"
    assert stats(rig) == {"prefill": 2}
    assert rig.metrics.registry.get_sample_value("pointsman_fallbacks_total", {"reason": "filters-drained"}) is None


def test_the_record_tells_of_the_stages(tmp_path: Path) -> None:
    rig = always(tmp_path, "prefill", "decode", "prefill")
    record = rig.ask().decision.record
    stage = record.view()["stages"]["prefill"]
    assert (stage["profile"], stage["chosen"], stage["hostport"]) == ("prefill", "default/pod-0", "10.0.0.0:8000")
    assert [row["endpoint"] for row in stage["candidates"]] == ["default/pod-0", "default/pod-2"]
    assert [row.endpoint for row in record.candidates()] == ["default/pod-1"]
    assert always(tmp_path, "decode").ask().decision.record.view()["stages"] == {}


def test_on_the_wire(tmp_path: Path) -> None:
    rig = always(tmp_path, "prefill", "decode")
    stream = Stream(rig.director)
    sent = {":method": "POST", ":path": CHAT, "x-request-id": "r1", PREFILL: "evil:1", ENCODE: "evil:2"}
    mode = wire.BodyMode.BUFFERED
    assert stream.feed(wire.RequestHeaders(RequestHead(sent), request_body_mode=mode)) == [
        wire.Continue("request_headers")
    ]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": LONG}]}).encode()
    (route,) = stream.feed(wire.RequestBody(body, end_of_stream=True))
    assert isinstance(route, wire.Route)
    assert route.destination == "10.0.0.1:8000"
    assert dict(route.set_headers) == {"x-request-id": "r1", PREFILL: "10.0.0.0:8000"}
    assert route.remove_headers == (ENCODE,)


def test_images_are_encoded_elsewhere(tmp_path: Path) -> None:
    rig = always(tmp_path, "encode", "prefill", "decode", "encode")
    assert headers(rig.ask(messages=IMAGE)) == {PREFILL: "10.0.0.1:8000", ENCODE: "10.0.0.0:8000"}
    assert headers(rig.ask()) == {PREFILL: "10.0.0.1:8000"}
    several = always(tmp_path, "encode", "prefill", "decode", "encode", maxEncoders=3)
    assert headers(several.ask(messages=IMAGE))[ENCODE] == "10.0.0.0:8000,10.0.0.3:8000"


@pytest.mark.parametrize(
    ("roles", "expected", "counted"),
    [
        (["decode"], {}, {"decode-only": 1, "no-prefill-endpoint": 1, "no-encode-endpoint": 1}),
        (["decode", "encode"], {ENCODE: "10.0.0.1:8000"}, {"encode": 1, "no-prefill-endpoint": 1}),
        (["both"], {}, {"decode-only": 1, "same-endpoint": 1, "no-encode-endpoint": 1}),
        (["encode-prefill-decode"], {}, {"decode-only": 1, "same-endpoint": 2}),
        # one pod encodes and prefills: the proxy is told of the prefill alone
        (["decode", "encode-prefill"], {PREFILL: "10.0.0.1:8000"}, {"prefill": 1, "same-endpoint": 1}),
    ],
)
def test_stages_without_an_endpoint_of_their_own(
    tmp_path: Path, roles: list[str], expected: dict[str, str], counted: dict[str, int]
) -> None:
    rig = always(tmp_path, *roles)
    exchange = rig.ask(messages=IMAGE)
    assert chosen(exchange) == "default/pod-0"
    assert headers(exchange) == expected
    assert stats(rig) == counted


def test_nobody_decodes(tmp_path: Path) -> None:
    rig = always(tmp_path, "prefill", "encode")
    with pytest.raises(NoEndpointsError):
        rig.ask()
    assert rig.ledger.totals() == (0, 0)


def test_what_a_client_sends_does_not_go_on(tmp_path: Path) -> None:
    sent = {PREFILL: "evil:1", ENCODE: "evil:2", "x-data-parallel-host-port": "evil:3"}
    decision = always(tmp_path, "prefill", "decode").ask(headers=sent).decision
    assert decision.headers[PREFILL] == "10.0.0.0:8000"
    assert set(decision.remove_headers) == {ENCODE, "x-data-parallel-host-port"}
    assert set(always(tmp_path, "decode").ask(headers=sent).decision.remove_headers) == set(sent)


@pytest.mark.parametrize("order", ["decode-first", "prefill-first"])
def test_a_decider_that_breaks_costs_its_stage(tmp_path: Path, order: str) -> None:
    code = """
from pointsman.framework.plugin import Params, register
from pointsman.plugins.deciders._decider import StageDecider

@register("broken")
class Broken(StageDecider[Params]):
    def wanted(self, request, decode, state):
        raise ValueError("no")
"""
    (tmp_path / "own.py").write_text(code)
    path = config(
        tmp_path, ["broken"], ("prefill", "encode", "decode"), stageOrder=order, deciders={"encode": "broken"}
    )
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"pluginPaths": ["own.py"]}))
    rig = Rig(path, pods("prefill", "decode", "encode"))
    exchange = rig.ask()
    assert (chosen(exchange), headers(exchange)) == ("default/pod-1", {}), "never to a pod that does not decode"
    assert rig.count("plugin_errors_total", plugin="disagg-profile-handler", point="handle-profiles") == 1


class TestPrefillFirst:
    def test_every_request_is_prefilled_elsewhere(self, tmp_path: Path) -> None:
        path = config(tmp_path, stages=("prefill", "decode"), stageOrder="prefill-first")
        rig = Rig(path, pods("decode", "prefill"))
        exchange = rig.ask()
        assert (chosen(exchange), headers(exchange)) == ("default/pod-0", {PREFILL: "10.0.0.1:8000"})
        assert list(rig.plan.scheduler.profiles) == ["prefill", "decode"]

    def test_without_prefill_pods_the_decoding_one_does_it(self, tmp_path: Path) -> None:
        path = config(tmp_path, stages=("prefill", "decode"), stageOrder="prefill-first")
        rig = Rig(path, pods("decode"))
        assert headers(rig.ask()) == {}
        assert stats(rig) == {"decode-only": 1, "no-prefill-endpoint": 1}

    def test_decode_sees_who_prefills(self, tmp_path: Path) -> None:
        code = """
from pointsman.framework.keys import PEER_ENDPOINT_KEY
from pointsman.framework.plugin import Params, Scorer, register

@register("next-to-peer")
class NextToPeer(Scorer[Params]):
    def score(self, request, endpoints, state):
        peer = state.get(PEER_ENDPOINT_KEY)
        return [0.0 if peer is None else 1.0 * (e.slot == peer.slot + 2) for e in endpoints]
"""
        (tmp_path / "own.py").write_text(code)
        path = config(tmp_path, ["next-to-peer"], ("prefill", "decode"), stageOrder="prefill-first")
        data = yaml.safe_load(path.read_text())
        data["pluginPaths"] = ["own.py"]
        data["schedulingProfiles"][1]["plugins"].append({"pluginRef": "next-to-peer", "weight": 1})
        path.write_text(yaml.safe_dump(data))
        rig = Rig(path, pods("prefill", "prefill", "decode", "decode"))
        asked = [rig.ask() for _ in range(4)]
        pairs = [(headers(exchange)[PREFILL], chosen(exchange)) for exchange in asked]
        assert pairs == [("10.0.0.0:8000", "default/pod-2"), ("10.0.0.1:8000", "default/pod-3")] * 2
        assert PEER_ENDPOINT_KEY.name == "peer-endpoint", "as llm-d calls it"


class TestLedger:
    def test_both_endpoints_are_claimed_and_let_go(self, tmp_path: Path) -> None:
        rig = always(tmp_path, "prefill", "decode")
        exchange = rig.ask(LONG)
        tokens = exchange.decision.request.prompt_tokens
        there, here = (rig.ledger.load(pod.id) for pod in rig.endpoints)
        assert (there.requests, there.tokens, there.decoding) == (1, tokens, 0)
        assert there.prefill_ms == pytest.approx(rig.cost.prefill_ms(tokens, 0))
        assert (here.requests, here.tokens, here.prefill_ms, here.context_tokens) == (1, 0, 0, tokens)
        exchange.response_headers(200, event_stream=True)
        exchange.response_body(b"data: {}\n\n", last=False)
        assert rig.ledger.load(rig.endpoints[0].id).requests == 0, "a first token: the prefill is over"
        assert rig.ledger.load(rig.endpoints[1].id).requests == 1
        exchange.end("complete")
        assert rig.ledger.totals() == (0, 0)

    def test_unseen_the_prefill_ends_when_it_should(self, tmp_path: Path) -> None:
        rig = always(tmp_path, "prefill", "decode")
        exchanges = [rig.ask(LONG), rig.ask(LONG)]
        one = rig.cost.prefill_ms(exchanges[0].decision.request.prompt_tokens, 0) / 1000
        prefiller = rig.endpoints[0].id
        assert rig.ledger.load(prefiller).requests == 2
        moment = rig.clock.now()
        rig.clock.advance(one * 1.001)
        assert rig.ledger.since(prefiller, moment).ended == 1
        assert rig.ledger.load(prefiller).requests == 1
        rig.clock.advance(one)
        assert rig.ledger.load(prefiller).requests == rig.ledger.load(prefiller).context_tokens == 0
        for exchange in exchanges:
            exchange.end("complete")
        assert rig.ledger.totals() == (0, 0)

    @pytest.mark.parametrize("cause", ["client-abort", "upstream-reset"])
    def test_an_early_end_lets_both_go(self, tmp_path: Path, cause: Any) -> None:
        rig = always(tmp_path, "prefill", "decode")
        exchange = rig.ask(LONG)
        exchange.end(cause)
        exchange.end(cause)
        assert rig.ledger.totals() == (0, 0)
        assert rig.ledger.load(rig.endpoints[0].id).prefill_ms == 0

    def test_both_are_expected_to_hold_the_prompt(self, tmp_path: Path) -> None:
        decider = "prefix-based-pd-decider"
        path = config(tmp_path, [decider], ("prefill", "decode"), deciders={"prefill": decider})
        data = yaml.safe_load(path.read_text())
        data["plugins"][1]["parameters"] = {"nonCachedTokens": 16}
        path.write_text(yaml.safe_dump(data))
        rig = Rig(path, pods("prefill", "decode"))
        first, second = rig.ask(LONG), rig.ask(LONG)
        assert headers(first) == {PREFILL: "10.0.0.0:8000"}
        assert headers(second) == {PREFILL: "10.0.0.0:8000"}, "what is left over of the last block is 16 and more"
        assert second.decision.record.predicted_cached_tokens == 448, "7 blocks of 64"
        tokens = second.decision.request.prompt_tokens
        assert rig.ledger.load(rig.endpoints[0].id).tokens == tokens + (tokens - 448)


SAMPLE_2 = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- type: token-producer
  parameters: {modelName: Qwen/Qwen3-32B, vllm: {url: "http://render:8000", timeout: 5s, mmTimeout: 30s}}
- type: endpoint-notification-source
- type: precise-prefix-cache-producer
  parameters:
    speculativeIndexing: true
    tokenProcessorConfig: {blockSizeTokens: 16}
    indexerConfig: {kvBlockIndexConfig: {enableMetrics: true}}
    kvEventsConfig: {topicFilter: "kv@", concurrency: 32, discoverPods: true, podDiscoveryConfig: {socketPort: 5557}}
- type: prefix-cache-scorer
  parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
- type: queue-scorer
- type: active-request-scorer
- type: prefill-filter
- type: decode-filter
- type: disagg-profile-handler
  parameters: {deciders: {prefill: prefix-based-pd-decider}}
- type: prefix-based-pd-decider
  parameters: {nonCachedTokens: 16}
dataLayer:
  sources:
  - pluginRef: endpoint-notification-source
    extractors: [{pluginRef: precise-prefix-cache-producer}]
schedulingProfiles:
- name: prefill
  plugins:
  - {pluginRef: prefill-filter}
  - {pluginRef: prefix-cache-scorer, weight: 2}
  - {pluginRef: queue-scorer, weight: 1}
- name: decode
  plugins:
  - {pluginRef: decode-filter}
  - {pluginRef: prefix-cache-scorer, weight: 2}
  - {pluginRef: active-request-scorer, weight: 4}
flowControl:
  defaultRequestTTL: 60s
  priorityBands: [{priority: 10, maxRequests: 500, fairnessPolicyRef: global-strict-fairness-policy}]
"""
"""llm-d's sample of P/D with a precise prefix cache, as it is."""


class TestSampleOfLlmD:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "pd.yaml"
        path.write_text(SAMPLE_2)
        return path

    def test_long_prompts_are_prefilled_elsewhere(self, path: Path) -> None:
        rig = Rig(path, pods("prefill", "prefill", "decode", "decode"))
        first, other = rig.ask(LONG), rig.ask("other " * 400)
        assert {chosen(first), chosen(other)} == {"default/pod-2", "default/pod-3"}
        assert {headers(first)[PREFILL], headers(other)[PREFILL]} == {"10.0.0.0:8000", "10.0.0.1:8000"}
        assert first.decision.record.profile == "decode"
        again = rig.ask(LONG)
        assert headers(again)[PREFILL] == headers(first)[PREFILL], "the prefill profile finds the prefix again"

    def test_short_prompts_are_not(self, path: Path) -> None:
        rig = Rig(path, pods("prefill", "decode"))
        exchange = rig.ask("hi")
        assert exchange.decision.request.prompt_tokens < 16
        assert (chosen(exchange), headers(exchange)) == ("default/pod-1", {})
        assert stats(rig) == {"decode-only": 1}

    def test_without_a_prefill_pod_the_decoding_one_does_it(self, path: Path) -> None:
        rig = Rig(path, pods("decode", "decode"))
        exchange = rig.ask(LONG)
        assert headers(exchange) == {}
        load = rig.ledger.load(exchange.decision.endpoints[0].id)
        assert load.tokens == exchange.decision.request.prompt_tokens
        assert stats(rig) == {"decode-only": 1, "no-prefill-endpoint": 1}


class TestOldHandler:
    def test_prefill_and_ranks(self, tmp_path: Path) -> None:
        decider = "always-disagg-pd-decider"
        path = config(
            tmp_path,
            [decider],
            ("prefill", "decode"),
            "pd-profile-handler",
            deciderPluginName=decider,
            primaryPort=8000,
        )
        ranks = [
            Endpoint(EndpointId(f"d/p-rank-{i}"), "10.0.1.1", 8200 + i, i, {"llm-d.ai/role": "decode"}) for i in (0, 1)
        ]
        rig = Rig(path, [*ranks, make_endpoint(2, labels={"llm-d.ai/role": "prefill"})])
        rig.ask()
        exchange = rig.ask()
        assert exchange.decision.destination == "10.0.1.1:8000"
        assert headers(exchange) == {PREFILL: "10.0.0.2:8000", "x-data-parallel-host-port": "10.0.1.1:8201"}

    def test_the_old_header_plugins_are_noted(self, tmp_path: Path) -> None:
        decider = "always-disagg-pd-decider"
        also = [decider, "prefill-header-handler", "disagg-headers-handler"]
        path = config(tmp_path, also, ("prefill", "decode"), "pd-profile-handler", deciderPluginName=decider)
        assert sum("sets the headers of the stages itself" in note for note in Rig(path).plan.notes) == 2


@pytest.mark.parametrize(
    ("kind", "stages", "parameters", "message"),
    [
        (
            "disagg-profile-handler",
            STAGES,
            {"deciders": {"prefill": "x"}},
            r"plugins\[0\]: parameters.deciders.prefill: no plugin is named 'x'",
        ),
        (
            "disagg-profile-handler",
            ("prefill",),
            {},
            r"plugins\[0\]: parameters.profiles.decode: no profile is named 'decode' \(profiles: prefill\)",
        ),
        (
            "disagg-profile-handler",
            ("decode",),
            {"deciders": {"encode": "decode-filter"}},
            r"parameters.profiles.encode: no profile is named 'encode'",
        ),
        (
            "disagg-profile-handler",
            STAGES,
            {"deciders": {"encode": "decode-filter"}},
            r"needs 'stage-judgement/decode-filter', which no plugin produces",
        ),
        (
            "disagg-profile-handler",
            STAGES,
            {"stageOrder": "prefill-first", "deciders": {"prefill": "x"}},
            r"plugins\[0\].parameters: deciders.prefill looks at the endpoint that decodes",
        ),
        (
            "disagg-profile-handler",
            ("decode",),
            {"stageOrder": "prefill-first"},
            r"parameters.profiles.prefill: no profile",
        ),
        (
            "pd-profile-handler",
            STAGES,
            {},
            r"parameters.deciderPluginName: no plugin is named 'prefix-based-pd-decider'",
        ),
        (
            "pd-profile-handler",
            STAGES,
            {"deciderPluginName": "decode-filter", "decodeProfile": "x"},
            r"parameters.decodeProfile: no profile is named 'x'",
        ),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, kind: str, stages: tuple[str, ...], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Rig(config(tmp_path, (), stages, kind, **parameters))
