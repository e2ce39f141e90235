from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest
from tests.datalayer.dns_server import DnsServer, dns_server

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.dns_lookup import DnsLookup
from pointsman.datalayer.dns_names import Answer, DnsTarget, parse_dns_url
from pointsman.datalayer.dns_source import DnsSource
from pointsman.errors import ConfigError
from pointsman.framework.observer import Observer

PODS = parse_dns_url("dns://pods.test:8000")


class Counting(Observer):
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def discovered(self, source: str, result: str) -> None:
        self.seen[f"{source} {result}"] += 1


class Rig:
    """A source at a server. Waits are noted and made short: the server is asked a hundred times a second."""

    def __init__(self, server: DnsServer) -> None:
        self.sets: list[list[str]] = []
        self.problems: list[str] = []
        self.waits: list[float] = []
        self.counting = Counting()
        lookup = DnsLookup(("127.0.0.1", server.port), try_s=1.0, lifetime_s=2.0)
        self.source = DnsSource(PODS, self.use, self.refuse, observer=self.counting, lookup=lookup, sleep=self.short)

    def use(self, specs: Sequence[EndpointSpec]) -> None:
        self.sets.append([spec.address for spec in specs])

    def refuse(self, error: ConfigError) -> None:
        self.problems.append(str(error))

    async def short(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)


def with_rig(check: Callable[[DnsServer, Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        async with dns_server() as server:
            rig = Rig(server)
            try:
                await check(server, rig)
            finally:
                await rig.source.stop()

    asyncio.run(main())


def test_follows_changes_and_waits_as_the_ttl_says() -> None:
    async def check(server: DnsServer, rig: Rig) -> None:
        server.a("pods.test.", "10.0.0.1")
        server.ttl = 5
        await rig.source.start()
        assert rig.sets == [["10.0.0.1"]]
        server.a("pods.test.", "10.0.0.2", "10.0.0.1")
        await rig.until(lambda: len(rig.sets) == 2)
        assert rig.sets[1] == ["10.0.0.1", "10.0.0.2"]
        server.ttl = 600
        await rig.until(lambda: rig.waits[-1] == 60)
        assert set(rig.waits) == {5, 60}
        assert not rig.problems

    with_rig(check)


def test_an_outage_keeps_the_set_is_told_once_and_counted() -> None:
    async def check(server: DnsServer, rig: Rig) -> None:
        server.a("pods.test.", "10.0.0.1")
        await rig.source.start()
        server.servfail = {"pods.test."}
        await rig.until(lambda: rig.counting.seen["dns failed"] >= 4)
        server.servfail = set()
        server.a("pods.test.", "10.0.0.7")
        await rig.until(lambda: len(rig.sets) == 2)
        assert rig.sets == [["10.0.0.1"], ["10.0.0.7"]]
        (problem,) = rig.problems
        assert problem.startswith("--endpoint: dns://pods.test:8000: ")
        assert "the last known endpoints stay" in problem

    with_rig(check)


def test_a_name_that_is_gone_empties_the_set_after_a_while() -> None:
    async def check(server: DnsServer, rig: Rig) -> None:
        server.a("pods.test.", "10.0.0.1")
        await rig.source.start()
        server.names.clear()
        await rig.until(lambda: len(rig.sets) == 2)
        assert rig.sets[1] == []
        assert rig.counting.seen["dns empty"] >= 3
        assert len(rig.problems) == 1

    with_rig(check)


def test_start_without_a_server_is_refused_but_an_empty_fleet_is_not() -> None:
    async def check(server: DnsServer, rig: Rig) -> None:
        server.servfail = {"pods.test."}
        with pytest.raises(ConfigError, match=r"cannot be resolved: .*SERVFAIL"):
            await rig.source.start()
        server.servfail = set()
        await rig.source.start()
        assert rig.sets == [[]]
        assert len(rig.problems) == 1
        server.a("pods.test.", "10.0.0.1")
        await rig.until(lambda: len(rig.sets) == 2)

    with_rig(check)


def test_a_lookup_that_raises_is_a_failure() -> None:
    async def main() -> None:
        async def broken(_: DnsTarget) -> Answer:
            raise RuntimeError("boom")

        source = DnsSource(PODS, lambda _: None, lambda _: None, lookup=broken)
        with pytest.raises(ConfigError, match="boom"):
            await source.start()
        await source.stop()

    asyncio.run(main())


def test_dnspython_is_loaded_only_when_there_is_a_name_to_ask_for() -> None:
    code = "import sys, pointsman.cli.main, pointsman.app.picker; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
