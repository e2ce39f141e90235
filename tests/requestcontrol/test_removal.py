"""Endpoints that go while their requests are in flight: every answer is accounted, nothing becomes negative."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.requestcontrol.rig import Rig, chosen

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.datalayer.datastore import DRAIN_LABEL, Datastore, EndpointSpec
from pointsman.requestcontrol.exchange import Exchange


class Fleet(Rig):
    """The rig over a real datastore."""

    def __init__(self, *names: str) -> None:
        super().__init__("default", [])
        self.datastore = Datastore(self.clock)
        self.datastore.on_removed(self.director.endpoint_removed)
        self.have(*names)

    def snapshot(self) -> tuple[Endpoint, ...]:
        return self.datastore.snapshot()

    def all(self) -> tuple[Endpoint, ...]:
        return self.datastore.all()

    def have(self, *names: str, draining: str = "") -> None:
        labels = {name: {DRAIN_LABEL: "true"} if name in draining else {} for name in names}
        self.datastore.set_endpoints(
            [EndpointSpec(name=name, address=f"10.0.0.{ord(name)}", port=1, labels=labels[name]) for name in names]
        )

    def in_flight(self, name: str) -> int:
        load = self.ledger.load(EndpointId(f"default/{name}"))
        assert min(load.requests, load.tokens, load.prefill_ms, load.decoding, load.context_tokens) >= 0
        return load.requests


def finish(exchange: Exchange) -> None:
    exchange.response_headers(200, event_stream=True)
    exchange.response_body(b'data: {"choices":[{"text":"x"}]}\n\n', last=False)
    exchange.response_body(b"data: [DONE]\n\n", last=True)
    exchange.end("complete")


def test_an_answer_of_an_endpoint_that_is_gone_is_accounted() -> None:
    fleet = Fleet("a")
    exchange = fleet.ask("long " * 4000, stream=True)
    fleet.have("b")
    assert fleet.ledger.totals() == (0, 0)
    other = fleet.ask("hello")
    assert chosen(other) == "default/b"
    finish(exchange)
    assert fleet.ends == [("default/a", 200)]
    assert fleet.count("request_outcomes_total", cause="complete", status="200") == 1
    assert fleet.count("requests_in_flight") == 1
    assert fleet.in_flight("b") == 1
    finish(other)
    assert fleet.ledger.totals() == (0, 0)


def test_one_that_comes_back_under_its_name_begins_anew() -> None:
    fleet = Fleet("a")
    before = fleet.ask("long " * 4000)
    fleet.have()
    fleet.have("a")
    assert fleet.in_flight("a") == 0
    after = fleet.ask("hello")
    assert fleet.in_flight("a") == 1
    finish(before)
    assert fleet.in_flight("a") == 1, "the old process's end is not the new one's"
    finish(after)
    assert fleet.in_flight("a") == 0


def test_draining_lets_what_is_under_way_finish() -> None:
    fleet = Fleet("a")
    exchange = fleet.ask("hello")
    fleet.have("a", "b", draining="a")
    assert {chosen(fleet.ask("hello")) for _ in range(5)} == {"default/b"}
    assert fleet.in_flight("a") == 1
    finish(exchange)
    assert fleet.in_flight("a") == 0
    assert fleet.ends == [("default/a", 200)]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("fleet"), st.sets(st.sampled_from("abc"), min_size=1), st.sets(st.sampled_from("abc"))),
        st.tuples(st.just("ask"), st.integers(0, 8000), st.none()),
        st.tuples(st.sampled_from(["first", "end", "moved"]), st.integers(0, 30), st.none()),
        st.tuples(st.just("wait"), st.floats(0, 20), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_whatever_comes_and_goes(actions: list[tuple[str, object, object]]) -> None:
    fleet = Fleet("a", "b")
    open_: list[Exchange] = []
    for action, what, draining in actions:
        if action == "fleet" and isinstance(what, set) and isinstance(draining, set):
            fleet.have(*sorted(what), draining="".join(draining))
        elif action == "ask" and isinstance(what, int):
            open_.append(fleet.ask("x" * what, stream=True))
        elif action == "wait" and isinstance(what, float):
            fleet.clock.advance(what)
        elif open_ and isinstance(what, int):
            exchange = open_[what % len(open_)]
            if action == "first":
                exchange.response_body(b"data: {}\n\n", last=False)
            elif action == "moved":
                exchange.served(f"10.0.0.{ord('abc'[what % 3])}:1")
            else:
                exchange.end("client-abort")
                open_.remove(exchange)
        assert sum(fleet.in_flight(name) for name in "abc") <= len(open_)
    for exchange in open_:
        finish(exchange)
    assert fleet.ledger.totals() == (0, 0)
    assert fleet.count("requests_in_flight") == 0
    for name in "abc":
        load = fleet.ledger.load(EndpointId(f"default/{name}"))
        assert (load.requests, load.tokens, load.context_tokens, load.decoding) == (0, 0, 0, 0)


def test_a_retry_that_lands_on_a_draining_endpoint_is_counted_there() -> None:
    rig = Fleet("a", "b")
    exchange = rig.ask()
    first = chosen(exchange).removeprefix("default/")
    other = "b" if first == "a" else "a"
    rig.have("a", "b", draining=other)
    exchange.served(f"10.0.0.{ord(other)}:1")
    assert (rig.in_flight(first), rig.in_flight(other)) == (0, 1)
    finish(exchange)
    exchange.end("complete")
    assert rig.in_flight(other) == 0
