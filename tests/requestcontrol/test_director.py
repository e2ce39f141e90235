"""Director: from bytes to a decision, whatever the plugins do, and from the answer to the record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_endpoints
from tests.requestcontrol.rig import CHAT, Rig, chosen, write_config

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import EndCause, SchedulingResult
from pointsman.errors import (
    AdmissionDeniedError,
    BadRequestError,
    ForbiddenError,
    NoEndpointsError,
    RequestError,
    SaturatedError,
    ShuttingDownError,
)
from pointsman.framework.loader import preset_names
from pointsman.framework.scheduler import Scheduler
from pointsman.framework.state import CycleState
from pointsman.requestcontrol.planning import build_plan

LONG = "Once upon a time there was a signal box. " * 200  # 8,200 bytes: 2,000 tokens and more

OWN_PLUGINS = """
from pointsman.errors import AdmissionDeniedError, ForbiddenError
from pointsman.framework.keys import prefix_match_key
from pointsman.framework.plugin import (
    Admitter, DataProducer, EndpointObserver, OutcomeObserver, Params, PickObserver, Picker, Scorer, register,
)


@register("raising-producer")
class RaisingProducer(DataProducer[Params]):
    def produce(self, request, endpoints, state):
        raise RuntimeError("no facts today")


@register("odd-producer")
class OddProducer(DataProducer[Params]):
    def produces(self):
        return (prefix_match_key(self.name),)

    def produce(self, request, endpoints, state):
        state.write(prefix_match_key(self.name), "no match at all")


@register("raising-scorer")
class RaisingScorer(Scorer[Params]):
    def score(self, request, endpoints, state):
        raise ZeroDivisionError("by nothing")


@register("short-scorer")
class ShortScorer(Scorer[Params]):
    def score(self, request, endpoints, state):
        return [1.0]


@register("last-is-best-scorer")
class LastIsBest(Scorer[Params]):
    def score(self, request, endpoints, state):
        return [float(endpoint is endpoints[-1]) for endpoint in endpoints]


@register("raising-picker")
class RaisingPicker(Picker[Params]):
    def pick(self, request, candidates, state):
        raise KeyError("nobody")


@register("empty-picker")
class EmptyPicker(Picker[Params]):
    def pick(self, request, candidates, state):
        return []


@register("deny-admitter")
class Deny(Admitter[Params]):
    def admit(self, request, endpoints, state):
        if request.headers.get("x-tenant") == "banned":
            raise ForbiddenError("this tenant may not")
        if request.headers.get("x-tenant") == "busy":
            raise AdmissionDeniedError("this tenant must wait")


@register("raising-admitter")
class RaisingAdmitter(Admitter[Params]):
    def admit(self, request, endpoints, state):
        raise OSError("the list is away")


@register("raising-observer")
class RaisingObserver(Scorer[Params], PickObserver, OutcomeObserver, EndpointObserver):
    def score(self, request, endpoints, state):
        return [0.0] * len(endpoints)

    def picked(self, request, result, state):
        raise RuntimeError("picked")

    def ended(self, outcome):
        raise RuntimeError("ended")

    def endpoint_removed(self, endpoint):
        raise RuntimeError("removed")
"""


class TestSpread:
    @pytest.mark.parametrize("preset", ["default", "llm-d", "least-request", "round-robin"])
    def test_64_alike_requests_to_8_idle_pods_are_8_to_each(self, preset: str) -> None:
        rig = Rig(preset)
        landed = Counter(chosen(rig.ask()) for _ in range(64))
        assert landed == {endpoint.id: 8 for endpoint in rig.endpoints}
        assert rig.ledger.totals()[0] == 64

    @pytest.mark.parametrize("preset", preset_names())
    def test_every_preset_sends_everything_somewhere(self, preset: str) -> None:
        rig = Rig(preset)
        landed = Counter(chosen(rig.ask(f"{i} {LONG}")) for i in range(64))
        assert sum(landed.values()) == 64
        assert max(landed.values()) < 40

    @pytest.mark.parametrize("preset", ["default", "llm-d", "brief"])
    def test_a_prompt_goes_where_its_beginning_is(self, preset: str) -> None:
        rig = Rig(preset, make_endpoints(3 if preset == "brief" else 8))
        homes = {}
        for topic in "abcdef":
            exchange = rig.ask(topic + LONG, max_tokens=1)
            homes[topic] = chosen(exchange)
            exchange.end("complete")
        again = {topic: rig.ask(f"{topic}{LONG} And then?") for topic in homes}
        for topic, exchange in again.items():
            rows = exchange.decision.record.candidates()
            assert rows[0].endpoint == homes[topic]
            if preset != "brief":  # which takes one of the best three
                assert chosen(exchange) == homes[topic]
            exchange.end("complete")

    def test_what_the_chosen_pod_is_believed_to_hold_is_recorded_and_not_reserved(self) -> None:
        rig = Rig()
        first = rig.ask(LONG)
        reserved = rig.ledger.load(first.decision.endpoints[0].id).tokens
        assert (first.decision.record.predicted_cached_tokens, reserved) == (0, first.decision.request.prompt_tokens)
        first.end("complete")
        second = rig.ask(LONG)
        cached = second.decision.record.predicted_cached_tokens
        assert chosen(second) == chosen(first)
        assert cached is not None
        assert 2000 < cached < second.decision.request.prompt_tokens
        load = rig.ledger.load(second.decision.endpoints[0].id)
        assert load.tokens == second.decision.request.prompt_tokens - cached
        assert load.context_tokens == second.decision.request.prompt_tokens


class TestCandidates:
    @pytest.mark.parametrize(
        ("subset", "allowed"),
        [
            (None, {0, 1, 2}),
            (("10.0.0.1",), {1}),
            (("10.0.0.1:8000",), {1}),
            (("10.0.0.1:8000", "10.0.0.2"), {1, 2}),
            (("10.0.0.1", "10.9.9.9"), {1}),
            (("10.0.0.1:9999",), set()),
            (("10.9.9.9",), set()),
            (("10.0.0",), set()),
            ((), set()),
        ],
    )
    @pytest.mark.parametrize("preset", ["default", "round-robin"])
    def test_a_subset_is_kept_to(self, preset: str, subset: tuple[str, ...] | None, allowed: set[int]) -> None:
        rig = Rig(preset, make_endpoints(3))
        if not allowed:
            with pytest.raises(NoEndpointsError, match="failed to find endpoint candidates"):
                rig.ask(subset=subset)
            assert rig.count("refusals_total", reason="no-endpoints") == 1
            return
        landed = {chosen(rig.ask(subset=subset)) for _ in range(6)}
        assert landed == {f"default/pod-{slot}" for slot in allowed}

    def test_a_subset_may_name_ipv6(self) -> None:
        endpoint = msgspec.structs.replace(make_endpoint(0), address="fd00::1", hostport="")
        rig = Rig(endpoints=[endpoint, make_endpoint(1)])
        for subset in (("fd00::1",), ("[fd00::1]:8000",)):
            assert rig.ask(subset=subset).decision.destination == "[fd00::1]:8000"

    def test_no_endpoints_are_503(self) -> None:
        rig = Rig(endpoints=[])
        with pytest.raises(NoEndpointsError) as caught:
            rig.ask()
        assert (caught.value.http_status, caught.value.drop_reason) == (503, "rejected-no-endpoints")
        assert rig.ledger.totals() == (0, 0)

    def test_draining_is_503(self) -> None:
        rig = Rig()
        under_way = rig.ask()
        rig.director.draining = True
        with pytest.raises(ShuttingDownError) as caught:
            rig.ask()
        assert (caught.value.http_status, caught.value.drop_reason) == (503, "rejected-shutting-down")
        under_way.end("complete")
        assert rig.ledger.totals() == (0, 0)

    def test_a_bad_body_is_refused_before_anything_is_counted(self) -> None:
        rig = Rig()
        with pytest.raises(BadRequestError):
            rig.ask(model=None)
        assert rig.count("refusals_total", reason="bad-request") == 1
        assert (rig.ledger.totals(), len(rig.metrics.records)) == ((0, 0), 0)

    def test_a_model_that_no_endpoint_serves_is_503(self) -> None:
        rig = Rig(endpoints=[make_endpoint(0, model="m"), make_endpoint(1, model="n")])
        assert chosen(rig.ask(model="n")) == "default/pod-1"
        with pytest.raises(NoEndpointsError, match="no endpoint serves model 'other'"):
            rig.ask(model="other")
        assert rig.count("fallbacks_total", reason="filters-drained") == 0

    def test_requests_without_a_body_go_anywhere(self) -> None:
        rig = Rig(endpoints=[make_endpoint(0, model="m")])
        exchange = rig.decide(RequestHead({":method": "GET", ":path": "/v1/models"}), b"", received=math.inf)
        assert (chosen(exchange), exchange.decision.request.model) == ("default/pod-0", "")


class TestSaturation:
    @pytest.mark.parametrize("fallback", ["round-robin", "refuse"])
    def test_full_pods_are_used_in_turn_or_refused(self, tmp_path: Path, fallback: str) -> None:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"filters: [{{type: queue-depth, maxQueueLength: 5}}]\nscorers: [type: load-aware]\nfallback: {fallback}"
        )
        rig = Rig(config, make_endpoints(3, waiting=100))
        if fallback == "refuse":
            with pytest.raises(SaturatedError) as caught:
                rig.ask()
            assert caught.value.http_status == 429
            assert rig.ledger.totals() == (0, 0)
        else:
            exchanges = [rig.ask() for _ in range(6)]
            assert Counter(map(chosen, exchanges)) == {f"default/pod-{slot}": 2 for slot in range(3)}
            record = exchanges[0].decision.record
            assert record.fallback == "filters-drained"
            assert record.dropped() == {"queue-depth": [f"default/pod-{slot}" for slot in range(3)]}
        assert rig.count("capacity_short_total") == (1 if fallback == "refuse" else 6)


BROKEN: list[tuple[list[Any], list[str], str, str, str | None]] = [
    (["active-request-scorer", "max-score-picker"], ["raising-producer"], "raising-producer", "produce", None),
    (["active-request-scorer", "max-score-picker"], ["odd-producer"], "prefix-match/odd-producer", "match", None),
    (["raising-scorer", "last-is-best-scorer", "max-score-picker"], [], "raising-scorer", "score", None),
    (["short-scorer", "last-is-best-scorer", "max-score-picker"], [], "short-scorer", "score", None),
    (["last-is-best-scorer", "raising-picker"], [], "raising-picker", "pick", "picker-error"),
    (["last-is-best-scorer", "empty-picker"], [], "empty-picker", "pick", "picker-error"),
    (["last-is-best-scorer", "max-score-picker"], ["raising-admitter"], "raising-admitter", "admit", None),
    (["last-is-best-scorer", "raising-observer", "max-score-picker"], [], "raising-observer", "picked", None),
]


class TestBrokenPlugins:
    @pytest.mark.parametrize(("profile", "also", "plugin", "point", "fallback"), BROKEN, ids=[b[2] for b in BROKEN])
    def test_cost_their_say_and_not_the_request(
        self, tmp_path: Path, profile: list[Any], also: list[str], plugin: str, point: str, fallback: str | None
    ) -> None:
        rig = Rig(write_config(tmp_path, profile, also=also, code=OWN_PLUGINS))
        exchange = rig.ask(LONG)
        assert exchange.decision.record.fallback == fallback
        if "last-is-best-scorer" in profile:
            assert chosen(exchange) == "default/pod-7"
        assert rig.count("plugin_errors_total", plugin=plugin, point=point) == 1
        assert rig.count("fallbacks_total", reason="picker-error") == (fallback is not None)
        assert rig.count("degraded_total", kind="no-data") == (point == "produce")
        exchange.end("complete")
        assert rig.ledger.totals() == (0, 0)

    def test_a_broken_scheduler_leaves_the_endpoints_in_turn(self) -> None:
        class Broken(Scheduler):
            def schedule(
                self,
                request: InferenceRequest,
                endpoints: Sequence[Endpoint],
                state: CycleState,
                deadline: float = math.inf,
            ) -> SchedulingResult:
                raise RuntimeError("nothing works")

        rig = Rig()
        sound = rig.plan.scheduler
        broken = Broken(sound.profiles, sound.handler, rig.metrics)
        rig.director.replace_plan(msgspec.structs.replace(rig.plan, scheduler=broken))
        exchanges = [rig.ask() for _ in range(16)]
        assert Counter(map(chosen, exchanges)) == {endpoint.id: 2 for endpoint in rig.endpoints}
        assert {exchange.decision.record.fallback for exchange in exchanges} == {"scheduler-error"}
        assert rig.count("plugin_errors_total", plugin="scheduler", point="schedule") == 16
        assert rig.count("fallbacks_total", reason="scheduler-error") == 16
        assert exchanges[0].decision.record.view()["candidates"] == []

    def test_a_broken_observer_of_ends_does_not_keep_the_reservation(self, tmp_path: Path) -> None:
        rig = Rig(write_config(tmp_path, ["raising-observer", "max-score-picker"], code=OWN_PLUGINS))
        rig.ask().end("complete")
        assert rig.count("plugin_errors_total", plugin="raising-observer", point="ended") == 1
        assert rig.ledger.totals() == (0, 0)
        assert rig.ends == [("default/pod-0", None)]

    def test_a_broken_observer_of_removals_does_not_keep_others_from_forgetting(self, tmp_path: Path) -> None:
        profile = ["raising-observer", "prefix-cache-scorer", "max-score-picker"]
        rig = Rig(write_config(tmp_path, profile, code=OWN_PLUGINS), make_endpoints(2))
        rig.ask(LONG, subset=("10.0.0.1",)).end("complete")
        rig.director.endpoint_removed(rig.endpoints[1])
        assert rig.count("plugin_errors_total", plugin="raising-observer", point="endpoint-removed") == 1
        assert rig.ask(LONG, subset=("10.0.0.1",)).decision.record.predicted_cached_tokens == 0

    def test_time_past_the_budget_leaves_scorers_out(self) -> None:
        rig = Rig("llm-d")
        exchange = rig.ask(received=perf_counter() - 10)
        assert exchange.decision.record.candidates()[0].terms == {}
        assert exchange.decision.record.scheduling_ms >= 10_000
        assert rig.count("degraded_total", kind="budget") == 1


class TestAdmission:
    @pytest.mark.parametrize(
        ("tenant", "error", "status"),
        [("busy", AdmissionDeniedError, 429), ("banned", ForbiddenError, 403), ("welcome", None, 200)],
    )
    def test_an_admitter_may_refuse_for_now_or_for_good(
        self, tmp_path: Path, tenant: str, error: type[RequestError] | None, status: int
    ) -> None:
        rig = Rig(write_config(tmp_path, ["max-score-picker"], also=["deny-admitter"], code=OWN_PLUGINS))
        if error is None:
            assert chosen(rig.ask(headers={"x-tenant": tenant}))
            return
        with pytest.raises(error) as caught:
            rig.ask(headers={"x-tenant": tenant})
        assert caught.value.http_status == status
        assert rig.count("refusals_total", reason=error.reason) == 1
        assert (rig.ledger.totals(), len(rig.metrics.records)) == ((0, 0), 0)


class TestRecord:
    @pytest.mark.parametrize(("preset", "unit"), [("default", "ms"), ("llm-d", "score"), ("brief", "score")])
    def test_terms_sum_to_the_score_of_every_candidate(self, preset: str, unit: str) -> None:
        endpoints = [make_endpoint(i, waiting=i, running=2 * i, kv_usage=i / 10, updated=99.5) for i in range(8)]
        rig = Rig(preset, endpoints)
        records = [rig.ask(f"{i % 5} {LONG}").decision.record for i in range(40)]
        for record in records:
            rows = record.candidates()
            assert (record.unit, record.fallback, len(rows)) == (unit, None, 8)
            for row in rows:
                assert row.terms
                assert sum(row.terms.values()) == pytest.approx(row.score)
                assert row.metrics_age_ms == 500.0
            assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
            assert rows[0].score <= 0 or unit == "score"
        assert any(len(set(row.terms.values())) > 1 for row in records[-1].candidates())

    def test_says_who_what_and_where(self) -> None:
        rig = Rig("llm-d")
        exchange = rig.ask(LONG, headers={"x-request-id": "abc-1"})
        record, decision = exchange.decision.record, exchange.decision
        assert rig.metrics.records.get("abc-1") is record
        assert (record.request_id, record.model, record.profile) == ("abc-1", "m", "default")
        assert (record.chosen, record.hostport) == (chosen(exchange), decision.endpoints[0].hostport)
        assert (record.time, record.clock, record.scheduling_ms) == (100.0, 100.0, 0.0)
        assert record.destination == decision.destination
        assert len(decision.endpoints) == 3
        assert decision.headers == {"x-request-id": "abc-1"}
        assert (record.status, record.cause, record.total_ms) == (None, None, None)

    def test_shows_neither_prompt_nor_headers(self) -> None:
        rig = Rig()
        view = msgspec.json.encode(rig.ask("MARKER" + LONG, headers={"authorization": "SECRET"}).decision.record.view())
        assert b"MARKER" not in view
        assert b"Once upon" not in view
        assert b"SECRET" not in view

    @pytest.mark.parametrize(
        ("given", "kept"), [("abc", True), ("x" * 200, True), ("a,b", True), ("", False), ("x" * 201, False)]
    )
    def test_a_request_keeps_its_id_when_that_can_be_used(self, given: str, kept: bool) -> None:
        rig = Rig()
        first, second = (rig.ask(headers={"x-request-id": given}).decision.request.id for _ in range(2))
        assert (first == given) is kept
        assert kept or first != second


def answer(exchange: Any, rig: Rig, *, event_stream: bool, status: int = 200) -> None:
    """An answer as it passes by: head at once, first piece after 250 ms, the rest after a second."""
    exchange.response_headers(status, event_stream=event_stream)
    rig.clock.advance(0.25)
    exchange.response_body(b'data: {"choices":[]}\n\n', last=False)
    rig.clock.advance(0.75)
    usage = b'{"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8}}}'
    exchange.response_body(b"data: " + usage[:30], last=False)
    exchange.response_body(usage[30:] + b"\n\ndata: [DONE]\n\n", last=True)


class TestOutcome:
    @pytest.mark.parametrize(
        ("stream", "event_stream", "ttft_ms"), [(True, True, 250.0), (False, False, None), (True, False, None)]
    )
    def test_is_filled_in_at_the_end(self, stream: bool, event_stream: bool, ttft_ms: float | None) -> None:
        rig = Rig()
        exchange = rig.ask(stream=stream)
        answer(exchange, rig, event_stream=event_stream)
        exchange.end("complete")
        record = exchange.decision.record
        assert (record.status, record.cause, record.ttft_ms, record.total_ms) == (200, "complete", ttft_ms, 1000.0)
        assert (record.cached_tokens, record.output_tokens) == (8, 4)
        assert rig.count("ttft_seconds_count") == (ttft_ms is not None)
        assert rig.ends == [(record.chosen, 200)]

    def test_an_error_to_a_request_for_a_stream_has_no_first_token(self) -> None:
        rig = Rig()
        exchange = rig.ask(stream=True)
        answer(exchange, rig, event_stream=False, status=404)
        exchange.end("complete")
        assert (exchange.decision.record.status, exchange.decision.record.ttft_ms) == (404, None)

    def test_unseen_is_none_and_not_zero(self) -> None:
        rig = Rig()
        exchange = rig.ask(stream=True)
        rig.clock.advance(2)
        exchange.end("client-abort")
        record = exchange.decision.record
        assert (record.status, record.ttft_ms, record.cached_tokens, record.output_tokens) == (None, None, None, None)
        assert (record.cause, record.total_ms) == ("client-abort", 2000.0)

    def test_the_ledger_learns_of_the_first_token(self) -> None:
        rig = Rig()
        exchange = rig.ask(LONG, stream=True)
        pod = exchange.decision.endpoints[0].id
        exchange.response_headers(200, event_stream=True)
        assert rig.ledger.load(pod).decoding == 0
        exchange.response_body(b"", last=False)
        assert rig.ledger.load(pod).decoding == 0
        exchange.response_body(b"data: ", last=False)
        assert (rig.ledger.load(pod).decoding, rig.ledger.load(pod).prefill_ms) == (1, 0.0)

    def test_the_head_of_a_plain_answer_means_that_it_is_all_there(self) -> None:
        rig = Rig()
        exchange = rig.ask(LONG)
        exchange.response_headers(200, event_stream=False)
        assert rig.ledger.load(exchange.decision.endpoints[0].id).tokens == 0

    @pytest.mark.parametrize("cause", ["complete", "client-abort", "upstream-reset", "refused", "error"])
    def test_the_end_is_told_once(self, cause: EndCause) -> None:
        rig = Rig()
        exchanges = [rig.ask(LONG) for _ in range(5)]
        assert rig.count("requests_in_flight") == 5
        for exchange in exchanges:
            exchange.response_headers(200, event_stream=True)
            exchange.end(cause)
            exchange.end("error")
            exchange.response_headers(500, event_stream=False)
            exchange.response_body(b"late", last=True)
            exchange.end(cause)
        assert rig.ledger.totals() == (0, 0)
        assert rig.count("request_outcomes_total", cause=cause, status="200") == 5
        assert rig.count("request_duration_seconds_count") == 5
        assert rig.count("requests_in_flight") == 0
        assert len(rig.ends) == 5
        assert {exchange.decision.record.cause for exchange in exchanges} == {cause}

    @pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (1.0, 200, 200), (0.5, 60, 140)])
    def test_a_share_of_the_answers_is_looked_at(self, tmp_path: Path, share: float, low: int, high: int) -> None:
        rig = Rig(write_config(tmp_path, ["random-picker"], observeShare=share))
        assert low <= sum(rig.ask().observe_body for _ in range(200)) <= high


class TestPlans:
    def test_another_plan_counts_from_the_next_request_on(self) -> None:
        rig = Rig("default")
        before = rig.ask()
        rig.director.replace_plan(build_plan("llm-d", rig.handle, rig.metrics))
        assert rig.ask().decision.record.unit == "score"
        assert before.decision.record.unit == "ms"
        before.end("complete")
        assert rig.director.plan.source == "preset:llm-d"

    def test_an_endpoint_that_is_gone_is_forgotten_with_what_it_held(self) -> None:
        rig = Rig(endpoints=make_endpoints(2))
        exchange = rig.ask(LONG)
        gone = exchange.decision.endpoints[0]
        rig.director.endpoint_removed(gone)
        assert rig.ledger.totals() == (0, 0)
        exchange.end("upstream-reset")
        assert rig.ledger.load(gone.id).requests == 0
        assert rig.ask(LONG, subset=(gone.hostport,)).decision.record.predicted_cached_tokens == 0


def test_a_path_outside_the_api_is_decided_too() -> None:
    rig = Rig()
    head = RequestHead({":method": "POST", ":path": CHAT + "/unknown"})
    exchange = rig.decide(head, b"\xff", received=perf_counter())
    assert exchange.decision.request.prompt_tokens == 0
    assert exchange.decision.record.scheduling_ms > 0
