from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.datalayer.dns_server import dns_server

from pointsman.app.discovery import Discovery, EndpointOptions
from pointsman.datalayer import dns_lookup
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.dns_lookup import DnsLookup
from pointsman.errors import ConfigError
from pointsman.framework.observer import Observer


class Heard:
    def __init__(self) -> None:
        self.sets: list[list[str]] = []
        self.problems: list[str] = []

    def use(self, specs: Sequence[EndpointSpec]) -> None:
        self.sets.append([f"{spec.address}:{spec.port}" for spec in specs])

    def refuse(self, error: ConfigError) -> None:
        self.problems.append(str(error))

    async def until(self, sets: int = 0, problems: int = 0) -> None:
        async with asyncio.timeout(15):
            while len(self.sets) < sets or len(self.problems) < problems:  # noqa: ASYNC110 - no event for that
                await asyncio.sleep(0.01)


class Counting(Observer):
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def discovered(self, source: str, result: str) -> None:
        self.seen[f"{source} {result}"] += 1


def test_a_file_is_followed_and_mistakes_keep_the_old_set(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("endpoints: [{name: a, address: 10.0.0.1, ports: [8000, 8001]}]")

    async def main() -> None:
        heard = Heard()
        discovery = Discovery(EndpointOptions(file=file), heard.use, heard.refuse)
        await discovery.start()
        assert heard.sets == [["10.0.0.1:8000", "10.0.0.1:8001"]]
        file.write_text("endpoints: [{name: a}]")
        await heard.until(problems=1)
        file.write_text("endpoints: []")
        await heard.until(sets=2)
        assert heard.sets[1] == []
        await discovery.stop()
        await discovery.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EndpointOptions(), "give endpoints"),
        (EndpointOptions(urls=("10.0.0.1:1",), file=Path("x")), "give endpoints"),
        (EndpointOptions(urls=("dns://a",)), "has no port"),
        (EndpointOptions(urls=("ftp://a",)), "scheme"),
        (EndpointOptions(file=Path("/nowhere/e.yaml")), "does not exist"),
    ],
)
def test_refused_at_the_start(options: EndpointOptions, words: str) -> None:
    async def main() -> None:
        heard = Heard()
        discovery = Discovery(options, heard.use, heard.refuse)
        with pytest.raises(ConfigError, match=words):
            await discovery.start()
        await discovery.stop()
        assert not heard.sets

    asyncio.run(main())


def test_given_ones_and_dns_make_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with dns_server() as server:
            server.ttl = 1
            server.a("pods.test.", "10.0.0.3", "10.0.0.2")
            server.srv("_http._tcp.test.", "0 0 9000 pods.test.", "0 0 8000 pods.test.")
            monkeypatch.setattr(dns_lookup, "DnsLookup", lambda: DnsLookup(("127.0.0.1", server.port)))
            heard, counting = Heard(), Counting()
            urls = ("dns://pods.test:8000", "10.0.0.1:8000", "http://10.0.0.2:8000", "dns+srv://_http._tcp.test")
            discovery = Discovery(EndpointOptions(urls=urls), heard.use, heard.refuse, counting)
            await discovery.start()
            assert heard.sets == [
                ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000", "10.0.0.2:9000", "10.0.0.3:9000"]
            ], "given ones first, no ip:port twice, one set at the start"
            server.a("pods.test.", "10.0.0.2")
            await heard.until(sets=3)
            assert heard.sets[-1] == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.2:9000"]
            assert counting.seen["dns ok"] >= 4
            await discovery.stop()

    asyncio.run(main())


def test_flags_for_a_child_process() -> None:
    urls = ("dns://a:1", "10.0.0.1:1")
    assert EndpointOptions(urls=urls).flags() == ["--endpoint", "dns://a:1", "--endpoint", "10.0.0.1:1"]
    assert EndpointOptions(file=Path("e.yaml")).flags() == ["--endpoints-file", "e.yaml"]
