"""Real questions to a real DNS server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.datalayer.dns_server import DnsServer, dns_server

from pointsman.datalayer.dns_lookup import NO_NAME_S, DnsLookup
from pointsman.datalayer.dns_names import Answer, Failed, Found, Place, parse_dns_url

PODS = parse_dns_url("dns://pods.test:8000")
SRV = parse_dns_url("dns+srv://_http._tcp.pods.test")
SRV_NAME = "_http._tcp.pods.test."


def at_server(check: Callable[[DnsServer, DnsLookup], Awaitable[None]]) -> None:
    async def main() -> None:
        async with dns_server() as server:
            await check(server, DnsLookup(("127.0.0.1", server.port), try_s=5.0, lifetime_s=10.0))

    asyncio.run(main())


def places(answer: Answer) -> list[tuple[str, int]]:
    assert isinstance(answer, Found), answer
    return sorted((place.address, place.port) for place in answer.places)


def test_addresses_ports_and_ttl() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.a("pods.test.", "10.0.0.2", "10.0.0.1")
        server.ttl = 7
        answer = await lookup(PODS)
        assert places(answer) == [("10.0.0.1", 8000), ("10.0.0.2", 8000)]
        assert isinstance(answer, Found)
        assert answer.ttl == 7
        two = await lookup(parse_dns_url("dns://pods.test:8000,8001"))
        assert places(two) == [(f"10.0.0.{host}", port) for host in (1, 2) for port in (8000, 8001)]

    at_server(check)


def test_ipv6_only_when_there_is_no_ipv4() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.a("pods.test.", "fd00::1", kind="AAAA")
        assert places(await lookup(PODS)) == [("fd00::1", 8000)]
        server.a("pods.test.", "10.0.0.1")
        assert places(await lookup(PODS)) == [("10.0.0.1", 8000)]

    at_server(check)


def test_no_such_name_and_no_such_record_are_answers() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        for target in (PODS, SRV):
            answer = await lookup(target)
            assert isinstance(answer, Found)
            assert (list(answer.places), answer.ttl) == ([], NO_NAME_S)
            assert target.name in answer.why
        server.names |= {"pods.test.", SRV_NAME}
        for target in (PODS, SRV):
            assert places(await lookup(target)) == []

    at_server(check)


def test_servfail_silence_and_garbage_are_failures() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.a("pods.test.", "10.0.0.1")
        server.servfail = {"pods.test."}
        answer = await lookup(PODS)
        assert isinstance(answer, Failed)
        assert "SERVFAIL" in answer.why
        server.servfail = set()
        impatient = DnsLookup(("127.0.0.1", server.port), try_s=0.2, lifetime_s=0.4)
        server.silent = True
        assert await impatient(PODS) == Failed("no DNS server answered in time")
        server.silent = False
        server.garbage = True
        assert isinstance(await impatient(PODS), Failed)
        server.garbage = False
        assert places(await lookup(PODS)) == [("10.0.0.1", 8000)]

    at_server(check)


def test_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.a("pods.test.", *(f"10.0.{host // 200}.{host % 200 + 1}" for host in range(600)))
        assert len(places(await lookup(PODS))) == 600
        assert [transport for transport, _, _ in server.asked] == ["udp", "tcp"]

    at_server(check)


def test_srv_brings_ports_and_labels() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.srv(SRV_NAME, "10 60 8000 A.pods.test.", "20 5 9000 b.pods.test.", "0 0 1 .")
        server.a("a.pods.test.", "10.0.0.1")
        server.a("b.pods.test.", "10.0.0.2", "10.0.0.3")
        answer = await lookup(SRV)
        assert isinstance(answer, Found)
        first = next(place for place in answer.places if place.address == "10.0.0.1")
        labels = (("pointsman/srv-priority", "10"), ("pointsman/srv-weight", "60"))
        assert first == Place("a.pods.test", "10.0.0.1", 8000, labels)
        assert places(answer) == [("10.0.0.1", 8000), ("10.0.0.2", 9000), ("10.0.0.3", 9000)]

    at_server(check)


def test_addresses_that_come_along_with_srv_are_not_asked_for() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.glue = True
        server.srv(SRV_NAME, *(f"0 0 8000 p{pod}.test." for pod in range(3)))
        for pod in range(3):
            server.a(f"p{pod}.test.", f"10.0.0.{pod + 1}")
        assert len(places(await lookup(SRV))) == 3
        assert {kind for _, _, kind in server.asked} == {"SRV"}

    at_server(check)


def test_an_srv_target_that_fails_keeps_its_last_addresses() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.srv(SRV_NAME, "0 0 8000 a.test.", "0 0 8000 b.test.")
        server.a("a.test.", "10.0.0.1")
        server.a("b.test.", "10.0.0.2")
        server.servfail = {"b.test."}
        assert isinstance(await lookup(SRV), Failed), "half a fleet would be a guess"
        server.servfail = set()
        assert len(places(await lookup(SRV))) == 2
        server.servfail = {"b.test."}
        server.a("a.test.", "10.0.0.9")
        assert places(await lookup(SRV)) == [("10.0.0.2", 8000), ("10.0.0.9", 8000)]
        server.servfail = set()
        server.names.discard("b.test.")
        assert places(await lookup(SRV)) == [("10.0.0.9", 8000)]

    at_server(check)


def test_many_srv_targets_are_asked_for_a_few_at_a_time() -> None:
    async def check(server: DnsServer, lookup: DnsLookup) -> None:
        server.srv(SRV_NAME, *(f"0 0 8000 p{pod}.test." for pod in range(60)))
        for pod in range(60):
            server.a(f"p{pod}.test.", f"10.0.0.{pod + 1}")
        assert len(places(await lookup(SRV))) == 60

    at_server(check)
