"""The latency model learns from real exchanges: which of them, and what it is told."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from tests.requestcontrol.rig import Rig, write_config

from pointsman.api.endpoint import EndpointId
from pointsman.latency.fit import FIRST, FittingModel, Sample
from pointsman.latency.model import LatencyModel
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.exchange import Exchange
from pointsman.requestcontrol.planning import make_cost

CHUNK = b'data: {"choices":[{"index":0,"text":"."}]}\n\n'


class Recording(FittingModel):
    """Keeps what it is told, too."""

    __slots__ = ("samples",)

    def __init__(self, seed: LatencyModel) -> None:
        super().__init__(seed)
        self.samples: list[Sample] = []

    def observe(self, sample: Sample) -> None:
        self.samples.append(sample)
        super().observe(sample)


class FittingRig(Rig):
    """A rig whose costs are fitted."""

    def __init__(self, config: Path) -> None:
        super().__init__(config)
        self.model = Recording(self.cost)
        handle = msgspec.structs.replace(self.handle, cost=self.model)
        self.director = Director(
            self.plan, self, self.ledger, self.model, handle.clock, Random(2), self.metrics, self._ended
        )

    def answer(
        self, exchange: Exchange, *, ttft: float = 0.1, rest: float = 1.0, output: int = 51, **usage: Any
    ) -> None:
        """The whole answer, as an engine streams it."""
        exchange.response_headers(200, event_stream=True)
        self.clock.advance(ttft)
        exchange.response_body(CHUNK, last=False)
        self.clock.advance(rest)
        counts = {"prompt_tokens": 1000, "completion_tokens": output, "total_tokens": 0} | usage
        exchange.response_body(b"data: " + msgspec.json.encode({"choices": [], "usage": counts}) + b"\n\n", last=True)
        exchange.end("complete")


@pytest.fixture
def rig(tmp_path: Path) -> FittingRig:
    return FittingRig(write_config(tmp_path, ["reserved-work-cost", "max-score-picker"], observeShare=1.0))


def test_an_answer_is_told_as_the_engine_saw_it(rig: FittingRig) -> None:
    exchange = rig.ask(stream=True)
    rig.answer(exchange, prompt_tokens_details={"cached_tokens": 400})
    (sample,) = rig.model.samples
    assert (sample.new_tokens, sample.cached_tokens, sample.output_tokens) == (600, 400, 51)
    assert (sample.before, sample.waiting, sample.joined) == (0, 0, 0)
    assert sample.ttft_ms == pytest.approx(100)
    assert sample.total_ms == pytest.approx(1100)
    assert sample.batch == pytest.approx(1.0)
    assert sample.endpoint == exchange.decision.endpoints[0].id


def test_without_a_count_of_cached_tokens_and_without_an_index_the_prefill_is_unknown(rig: FittingRig) -> None:
    rig.answer(rig.ask(stream=True))
    assert rig.model.samples[0].new_tokens is None


def test_others_at_the_pod_are_told(rig: FittingRig) -> None:
    rig.endpoints = rig.endpoints[:1]
    first = rig.ask("a" * 4000, stream=True)
    rig.clock.advance(10)  # its prefill is believed to be over
    second = rig.ask("b" * 400, stream=True)
    third = rig.ask("c" * 4000, stream=True)
    rig.answer(third)
    rig.answer(second)
    ours, theirs = rig.model.samples
    assert (theirs.before, theirs.waiting, theirs.joined) == (1, 0, 1)
    assert (ours.before, ours.waiting, ours.joined) == (2, 1, 0)
    assert theirs.joined_tokens == third.decision.request.prompt_tokens
    assert ours.batch == pytest.approx(3.0)
    assert theirs.batch == pytest.approx(2.5)  # three for one half of its life, two for the other
    first.end("client-abort")


@pytest.mark.parametrize(("status", "stream"), [(500, True), (200, False)])
def test_only_streamed_successes_teach(rig: FittingRig, status: int, stream: bool) -> None:
    exchange = rig.ask(stream=stream)
    exchange.response_headers(status, event_stream=stream)
    rig.clock.advance(1)
    exchange.response_body(CHUNK, last=True)
    exchange.end("complete")
    assert rig.model.samples == []


def test_an_answer_that_broke_off_does_not(rig: FittingRig) -> None:
    exchange = rig.ask(stream=True)
    exchange.response_headers(200, event_stream=True)
    rig.clock.advance(1)
    exchange.response_body(CHUNK, last=False)
    exchange.end("upstream-reset")
    assert rig.model.samples == []


@pytest.mark.parametrize("nobody_knows", [True, False])
def test_nor_does_one_that_another_pod_gave(rig: FittingRig, nobody_knows: bool) -> None:
    exchange = rig.ask(stream=True)
    exchange.served("192.0.2.99:1" if nobody_knows else exchange.decision.endpoints[1].hostport)
    rig.answer(exchange)
    assert rig.model.samples == []


def test_nor_does_one_of_a_pod_that_was_removed_and_came_back(rig: FittingRig) -> None:
    exchange = rig.ask(stream=True)
    rig.director.endpoint_removed(exchange.decision.endpoints[0])
    rig.answer(exchange)
    assert rig.model.samples == []
    assert rig.model.describe()["slowness"] == {}


class TestShare:
    def make(self, tmp_path: Path, share: float) -> FittingRig:
        return FittingRig(write_config(tmp_path, ["random-picker"], observeShare=share))

    def test_the_first_answers_are_looked_at_then_the_share_counts(self, tmp_path: Path) -> None:
        rig = self.make(tmp_path, 1e-9)
        seen = [rig.ask(stream=True).observe_body for _ in range(FIRST + 20)]
        assert seen == [True] * FIRST + [False] * 20

    def test_none_where_none_may_be(self, tmp_path: Path) -> None:
        rig = self.make(tmp_path, 0.0)
        assert not any(rig.ask(stream=True).observe_body for _ in range(20))
        assert rig.model.begun == 0


class TestMakeCost:
    def test_fits_unless_told_not_to(self, tmp_path: Path) -> None:
        fitting = Rig(write_config(tmp_path, ["random-picker"])).plan
        fixed = Rig(write_config(tmp_path, ["random-picker"], latencyFit=False)).plan
        assert isinstance(make_cost(fitting), FittingModel)
        assert isinstance(make_cost(fixed), LatencyModel)

    def test_a_profile_stands_beside_the_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(
            "name: mine\nprefill_fixed: 5\nprefill_per_token: 0.5\nprefill_quadratic: 0\nprefill_cached: 0\n"
            "decode_base: 7\ndecode_per_request: 0\ndecode_per_context_token: 0\n"
        )
        plan = Rig(write_config(tmp_path, ["random-picker"], latencyProfile="mine.yaml")).plan
        cost = make_cost(plan)
        assert cost.prefill_ms(100, 0) == pytest.approx(55)
        assert cost.decode_step_ms(9, 9) == pytest.approx(7)


def test_a_course_adds_up_requests_over_time(rig: FittingRig) -> None:
    pod = EndpointId("somewhere")
    assert rig.ledger.course(pod)[1:] == (0, 0, 0.0, 0.0, 0, 0)
    before = rig.clock.now()
    one = rig.ledger.reserve(pod, uncached_tokens=10, context_tokens=100, prefill_ms=1000)
    rig.clock.advance(0.5)
    two = rig.ledger.reserve(pod, uncached_tokens=20, context_tokens=200, prefill_ms=0)
    rig.clock.advance(1.5)
    rig.ledger.release(one)
    rig.clock.advance(1)
    rig.ledger.release(two)
    rig.clock.advance(5)
    course = rig.ledger.course(pod)
    assert course.at == before + 8
    assert (course.requests, course.waiting, course.arrived, course.arrived_tokens) == (0, 0, 2, 30)
    assert course.request_seconds == pytest.approx(0.5 + 2 * 1.5 + 1)
    assert course.context_seconds == pytest.approx(100 * 2 + 200 * 2.5)


def test_work_handed_to_a_slow_pod_counts_for_more(rig: FittingRig) -> None:
    rig.endpoints = rig.endpoints[:1]
    pod = rig.endpoints[0].id
    first = rig.ask("a" * 4000, stream=True)
    alone = rig.ledger.load(pod).prefill_ms
    first.end("client-abort")
    rig.model.paces = {pod: 2.0}
    rig.ask("b" * 4000, stream=True)
    assert rig.ledger.load(pod).prefill_ms == pytest.approx(2 * alone)
