from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.datalayer.dns_names import (
    EMPTY_ANSWERS,
    MAX_WAIT,
    MIN_WAIT,
    Answer,
    DnsFollower,
    DnsTarget,
    Failed,
    Found,
    Place,
    is_dns_url,
    parse_dns_url,
)
from pointsman.errors import ConfigError

TARGET = DnsTarget("pods.test", (8000,))


def found(*addresses: str, ttl: float = 30.0) -> Found:
    return Found([Place("pods.test", address, 8000) for address in addresses], ttl)


NOTHING = Found((), 5.0, "pods.test has no address")


@pytest.mark.parametrize(
    ("url", "name", "ports"),
    [
        ("dns://vllm.default.svc:8000", "vllm.default.svc", (8000,)),
        ("DNS://localhost:1/", "localhost", (1,)),
        ("dns://a.b.:8000,8001", "a.b.", (8000, 8001)),
        ("dns+srv://_http._tcp.vllm.default.svc", "_http._tcp.vllm.default.svc", ()),
    ],
)
def test_targets(url: str, name: str, ports: tuple[int, ...]) -> None:
    assert is_dns_url(url)
    target = parse_dns_url(url)
    assert (target.name, target.ports, target.srv) == (name, ports, not ports)
    assert parse_dns_url(str(target)) == target


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("dns://vllm", "has no port"),
        ("dns://vllm:", "has no port"),
        ("dns://vllm:http", "not a port"),
        ("dns://vllm:0", "between 1 and 65535"),
        ("dns://vllm:8000,8000", "different ports"),
        ("dns://vllm:1,2,3,4,5,6,7,8,9", "at most 8"),
        ("dns://:8000", "not a DNS name"),
        ("dns://10.0.0.1:8000", "not a DNS name"),
        ("dns://[::1]:8000", "not a DNS name"),
        ("dns://a..b:8000", "not a DNS name"),
        ("dns://a/b:8000", "not a DNS name"),
        ("dns://" + "a" * 64 + ":1", "not a DNS name"),
        ("dns://" + ".".join(["a" * 60] * 5) + ":1", "not a DNS name"),
        ("dns+srv://_http._tcp.a:80", "bring their ports"),
    ],
)
def test_bad_targets(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_dns_url(url)


@pytest.mark.parametrize("url", ["http://dns:80", "dns:80", "10.0.0.1:80"])
def test_not_ours(url: str) -> None:
    assert not is_dns_url(url)


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = parse_dns_url(f"dns://{text}")
    except ConfigError:
        return
    assert parse_dns_url(str(target)) == target


def test_order_and_names_do_not_depend_on_the_answers_order() -> None:
    follower = DnsFollower(TARGET)
    step = follower.note(found("10.0.0.10", "10.0.0.9", "10.0.0.10"))
    assert step.specs is not None
    assert [(spec.name, spec.address, spec.port) for spec in step.specs] == [
        ("pods.test@10.0.0.9:8000", "10.0.0.9", 8000),
        ("pods.test@10.0.0.10:8000", "10.0.0.10", 8000),
    ]
    assert follower.note(found("10.0.0.9", "10.0.0.10")).specs is None, "nothing new"
    step = follower.note(found("10.0.0.9"))
    assert step.specs is not None
    assert [spec.name for spec in step.specs] == ["pods.test@10.0.0.9:8000"], "one that is alone keeps its name"


def test_addresses_that_are_none_are_left_out() -> None:
    step = DnsFollower(TARGET).note(
        Found([Place("h.", "0.0.0.0", 1), Place("h.", "fd00::1", 2), Place("h", "x", 3)], 1)
    )
    assert step.specs is not None
    assert [spec.name for spec in step.specs] == ["h@[fd00::1]:2"]


@pytest.mark.parametrize(("ttl", "wait"), [(0, MIN_WAIT), (0.5, MIN_WAIT), (7, 7), (86_400, MAX_WAIT)])
def test_the_ttl_is_bounded(ttl: float, wait: float) -> None:
    assert DnsFollower(TARGET).note(found("10.0.0.1", ttl=ttl)).wait == wait


def test_failures_keep_the_set_and_are_told_once_for_each_outage() -> None:
    follower = DnsFollower(TARGET)
    follower.note(found("10.0.0.1"))
    steps = [follower.note(Failed("SERVFAIL")) for _ in range(8)]
    assert [step.specs for step in steps] == [None] * 8
    assert [step.wait for step in steps] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert steps[0].problem is not None
    assert "dns://pods.test:8000: SERVFAIL" in steps[0].problem
    assert [step.problem for step in steps[1:]] == [None] * 7
    assert follower.note(found("10.0.0.1")).specs is None
    assert follower.note(Failed("again")).problem is not None


def test_an_authoritative_nothing_empties_the_set_when_it_is_heard_often_enough() -> None:
    follower = DnsFollower(TARGET)
    follower.note(found("10.0.0.1"))
    assert [follower.note(NOTHING).specs for _ in range(EMPTY_ANSWERS - 1)] == [None] * (EMPTY_ANSWERS - 1)
    assert follower.note(Failed("x")).specs is None, "begins anew"
    assert [follower.note(NOTHING).specs for _ in range(EMPTY_ANSWERS)] == [None] * (EMPTY_ANSWERS - 1) + [[]]
    assert follower.note(NOTHING).specs is None
    assert follower.note(found("10.0.0.1")).specs, "back at once"


def test_at_the_start_nothing_is_nothing() -> None:
    step = DnsFollower(TARGET).note(NOTHING)
    assert step.specs == []
    assert step.problem == "dns://pods.test:8000: pods.test has no address (is the name right?)"


ANSWERS: st.SearchStrategy[Answer] = st.one_of(
    st.builds(Failed, st.just("x")),
    st.builds(
        lambda hosts, ttl: found(*(f"10.0.0.{host}" for host in hosts), ttl=ttl),
        st.lists(st.integers(0, 3), max_size=3),
        st.floats(0, 1e6),
    ),
)


@given(st.lists(ANSWERS, max_size=30))
def test_any_answers(answers: list[Answer]) -> None:
    follower = DnsFollower(TARGET)
    last: object = None
    empties = 0
    for answer in answers:
        step = follower.note(answer)
        assert MIN_WAIT <= step.wait <= MAX_WAIT
        empties = empties + 1 if isinstance(answer, Found) and not answer.places else 0
        if step.specs is not None:
            assert step.specs != last
            assert step.specs or not last or empties >= EMPTY_ANSWERS
            assert [spec.address for spec in step.specs] == sorted({spec.address for spec in step.specs})
            last = step.specs
