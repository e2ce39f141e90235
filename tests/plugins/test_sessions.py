"""Session affinity, as filter and as scorer."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    make_endpoint,
    make_endpoints,
    make_handle,
    make_outcome,
    make_plugin,
    make_request,
    make_result,
    make_state,
)

from pointsman.api.endpoint import EndpointId
from pointsman.api.result import SchedulingResult
from pointsman.clock import ManualClock
from pointsman.framework.keys import SESSION_ID_KEY, request_attribute_key
from pointsman.framework.state import CycleState
from pointsman.plugins._sessions import SessionAffinity
from pointsman.plugins.filters.session_affinity import SessionAffinityFilter
from pointsman.plugins.scorers.session_affinity import SessionAffinityScorer

ENDPOINTS = make_endpoints(3)
TOKEN = b64encode(b"default/pod-1").decode()
BY_ID: dict[str, Any] = {"strategy": "session_id"}
IN_SESSION = make_request(headers={"x-session-id": "s1"})


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"x-session-token": TOKEN}, [1]),
        ({"x-session-token": b64encode(b"default/gone").decode()}, [0, 1, 2]),
        ({"x-session-token": "no base64!"}, [0, 1, 2]),
        ({"x-session-token": b64encode(b"\xff\xfe").decode()}, [0, 1, 2]),
        ({"x-session-token": "A" * 1_000_000}, [0, 1, 2]),
    ],
)
def test_encoded_header(headers: dict[str, str], kept: list[int]) -> None:
    request = make_request(headers=headers)
    plugin = make_plugin(SessionAffinityFilter)
    assert [e.slot for e in plugin.filter(request, ENDPOINTS, make_state())] == kept
    scores = make_plugin(SessionAffinityScorer).score(request, ENDPOINTS, make_state())
    assert scores == ([0.0, 1.0, 0.0] if kept == [1] else [0.0, 0.0, 0.0])
    bad = headers.get("x-session-token", "") in ("no base64!", b64encode(b"\xff\xfe").decode())
    assert plugin.stats() == {"bad-tokens": int(bad)}


class TestAnswerHeader:
    def test_names_the_endpoint_and_leads_back_to_it(self) -> None:
        plugin = make_plugin(SessionAffinityFilter, encodedEndpointHeaderConfig={"header": "X-Sticky"})
        headers = dict(plugin.answer_headers(make_request(), ENDPOINTS[1], ""))
        assert headers == {"x-sticky": TOKEN}
        assert list(plugin.filter(make_request(headers=headers), ENDPOINTS, make_state())) == [ENDPOINTS[1]]

    def test_names_who_really_served(self) -> None:
        plugin, chosen, spare = make_plugin(SessionAffinityScorer), ENDPOINTS[0], ENDPOINTS[1]
        result = make_result(chosen)
        run = msgspec.structs.replace(result.profiles["default"], targets=(chosen, spare))
        plugin.picked(make_request(), SchedulingResult("default", {"default": run}), make_state())
        assert plugin.answer_headers(make_request(), chosen, spare.hostport) == {"x-session-token": TOKEN}
        assert plugin.answer_headers(make_request(), chosen, "10.9.9.9:8000") == {}, "an endpoint nobody named"
        plugin.endpoint_removed(spare)
        assert plugin.answer_headers(make_request(), chosen, spare.hostport) == {}

    def test_of_another_profile(self) -> None:
        plugin, request = make_plugin(SessionAffinityFilter, profileName="prefill"), make_request()
        profiles = {**make_result(ENDPOINTS[0]).profiles, **make_result(ENDPOINTS[1], profile="prefill").profiles}
        plugin.picked(request, SchedulingResult("default", profiles), make_state())
        assert plugin.answer_headers(request, ENDPOINTS[0], "") == {"x-session-token": TOKEN}
        plugin.ended(make_outcome(ENDPOINTS[0], request))
        assert plugin.answer_headers(request, ENDPOINTS[0], "") == {}

    def test_none_with_ids(self) -> None:
        assert make_plugin(SessionAffinityFilter, **BY_ID).answer_headers(IN_SESSION, ENDPOINTS[0], "") == {}


@pytest.mark.parametrize("cls", [SessionAffinityFilter, SessionAffinityScorer])
class TestSessionId:
    def test_is_bound_by_its_first_pick(self, cls: type[SessionAffinity]) -> None:
        plugin = make_plugin(cls, **BY_ID)
        assert plugin.pinned(IN_SESSION, make_state()) is None
        plugin.picked(IN_SESSION, make_result(ENDPOINTS[1], ENDPOINTS), make_state())
        assert plugin.pinned(IN_SESSION, make_state()) == "default/pod-1"
        assert plugin.pinned(make_request(headers={"x-session-id": "s2"}), make_state()) is None
        assert plugin.pinned(make_request(), make_state()) is None

    def test_stays_while_its_endpoint_is_a_candidate(self, cls: type[SessionAffinity]) -> None:
        plugin = make_plugin(cls, **BY_ID)
        plugin.picked(IN_SESSION, make_result(ENDPOINTS[1], ENDPOINTS), make_state())
        plugin.picked(IN_SESSION, make_result(ENDPOINTS[2], ENDPOINTS), make_state())  # outvoted
        assert plugin.pinned(IN_SESSION, make_state()) == "default/pod-1"
        plugin.picked(IN_SESSION, make_result(ENDPOINTS[2], [ENDPOINTS[0], ENDPOINTS[2]]), make_state())  # gone
        assert plugin.pinned(IN_SESSION, make_state()) == "default/pod-2"

    def test_expires(self, cls: type[SessionAffinity]) -> None:
        clock = ManualClock(0.0)
        plugin = make_plugin(cls, make_handle(clock=clock), **BY_ID, sessionIdConfig={"evictionTtlSeconds": 5})
        plugin.picked(IN_SESSION, make_result(ENDPOINTS[1]), make_state())
        clock.advance(5.1)
        assert plugin.pinned(IN_SESSION, make_state()) is None

    def test_first_source_with_a_value_wins(self, cls: type[SessionAffinity]) -> None:
        sources = [{"header": "X-Chat"}, {"attribute": "session-id"}, {"attribute": "agent-identity"}]
        plugin = make_plugin(cls, **BY_ID, sessionIdConfig={"sources": sources})
        assert set(plugin.consumes()) == {SESSION_ID_KEY, request_attribute_key("agent-identity")}
        state = CycleState()
        state.write(SESSION_ID_KEY, "from-producer")
        state.write(request_attribute_key("agent-identity"), "agent")
        blank = make_request(headers={"x-chat": "  "})
        plugin.picked(blank, make_result(ENDPOINTS[0]), state)
        plugin.picked(make_request(headers={"x-chat": "c"}), make_result(ENDPOINTS[2]), state)
        assert plugin.pinned(make_request(), state) == "default/pod-0"
        assert plugin.pinned(make_request(headers={"x-chat": "c"}), make_state()) == "default/pod-2"

    def test_of_another_profile(self, cls: type[SessionAffinity]) -> None:
        plugin = make_plugin(cls, **BY_ID, profileName="prefill")
        plugin.picked(IN_SESSION, make_result(ENDPOINTS[0]), make_state())  # no prefill stage this time
        assert plugin.pinned(IN_SESSION, make_state()) is None
        profiles = {**make_result(ENDPOINTS[0]).profiles, **make_result(ENDPOINTS[1], profile="prefill").profiles}
        plugin.picked(IN_SESSION, SchedulingResult("default", profiles), make_state())
        assert plugin.pinned(IN_SESSION, make_state()) == "default/pod-1"


def test_ranks_are_endpoints_of_their_own() -> None:
    rank = msgspec.structs.replace(make_endpoint(0), id="default/pod-0-rank-1")
    plugin = make_plugin(SessionAffinityFilter)
    headers = dict(plugin.answer_headers(make_request(), rank, ""))
    assert list(plugin.filter(make_request(headers=headers), [make_endpoint(0), rank], make_state())) == [rank]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strategy": "cookie"}, "strategy"),
        ({"sessionIdConfig": {"sources": [{}]}}, "exactly one of header and attribute"),
        ({"sessionIdConfig": {"sources": [{"header": "a", "attribute": "b"}]}}, "exactly one of"),
        ({"sessionIdConfig": {"evictionTtlSeconds": 0}}, "evictionTtlSeconds"),
        ({"encodedEndpointHeaderConfig": {"header": ""}}, "header"),
    ],
)
def test_refuses(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        make_plugin(SessionAffinityFilter, **parameters)


@given(st.text(max_size=50), st.text(max_size=50))
def test_whatever_a_client_sends_pins_or_does_not(token: str, session: str) -> None:
    request = make_request(headers={"x-session-token": token, "x-session-id": session})
    for parameters in ({}, BY_ID):
        plugin = make_plugin(SessionAffinityFilter, **parameters)
        plugin.picked(request, make_result(ENDPOINTS[1]), make_state())
        assert list(plugin.filter(request, ENDPOINTS, make_state())) in ([ENDPOINTS[1]], ENDPOINTS)


@given(st.text(min_size=1, max_size=60))
def test_any_id_survives_its_token(name: str) -> None:
    endpoint = msgspec.structs.replace(make_endpoint(0), id=EndpointId(f"default/{name.encode('utf-8', 'ignore')!r}"))
    plugin = make_plugin(SessionAffinityFilter)
    headers = dict(plugin.answer_headers(make_request(), endpoint, ""))
    assert plugin.pinned(make_request(headers=headers), make_state()) == endpoint.id
