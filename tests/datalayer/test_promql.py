"""A small server that answers as a real Prometheus (2.42) did; tests/data/prometheus holds what it said."""

from __future__ import annotations

import asyncio
import base64
import copy
import re
import ssl
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from pointsman.api.config import PrometheusConfig
from pointsman.api.endpoint import EndpointId, EndpointMetrics, Quantiles
from pointsman.clock import ManualClock
from pointsman.datalayer import promql_client
from pointsman.datalayer.datastore import Datastore, EndpointSpec
from pointsman.datalayer.promql import PromqlSource
from pointsman.datalayer.promql_queries import VLLM_QUERIES
from pointsman.framework.observer import Observer

RECORDED: dict[str, Any] = msgspec.json.decode(Path("tests/data/prometheus/answers.json").read_bytes())
BUSY, IDLE = EndpointId("default/sim-0"), EndpointId("default/sim-1")
AGE = 0.7
"""Of the recorded samples: 0.69 s."""


class Prometheus:
    """Answers recorded bytes by quantity; knows which by the default queries."""

    def __init__(self) -> None:
        self.answers = copy.deepcopy(RECORDED)
        self.mode = "good"
        self.slow: set[str] = set()
        self.asked: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.unblock = asyncio.Event()

    async def query(self, request: web.Request) -> web.StreamResponse:
        query = request.query["query"]
        self.asked.append(dict(request.query))
        self.headers.append(dict(request.headers))
        name = next((name for name, text in VLLM_QUERIES.items() if _plain(text) == query), "none")
        if self.mode == "hang" or name in self.slow:
            await self.unblock.wait()
        if self.mode == "redirect":
            raise web.HTTPFound("/elsewhere")
        if self.mode == "error" or not re.fullmatch(r"[0-9]+(ms|s)", request.query["timeout"]):
            return web.json_response(self.answers["bad"], status=400)
        if self.mode == "garbage":
            return web.Response(body=b'{"status":')
        if self.mode == "huge":
            return web.Response(body=b" " * 5000)
        if self.mode.isdecimal():
            return web.Response(status=int(self.mode))
        return web.json_response(self.answers[name])

    def change(self, quantity: str, pod: int, value: str) -> None:
        self._series(quantity, pod)["value"][1] = value

    def move(self, pod: int, seconds: float) -> None:
        series = self._series("sampledAt", pod)
        series["value"][1] = str(float(series["value"][1]) + seconds)

    def drop(self, pod: int) -> None:
        for quantity in VLLM_QUERIES:
            result = self.answers[quantity]["data"]["result"]
            result.remove(self._series(quantity, pod))

    def _series(self, quantity: str, pod: int) -> dict[str, Any]:
        found: dict[str, Any] = next(
            one for one in self.answers[quantity]["data"]["result"] if one["metric"]["pod"] == f"sim-{pod}"
        )
        return found


def _plain(template: str) -> str:
    return template.replace("{selector}", "").replace("{window}", "1m")


class Counting(Observer):
    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter()
        self.fed: tuple[int, int] = (0, 0)

    def gauges_asked(self, result: str) -> None:
        self.rounds[result] += 1

    def gauges_fed(self, fed: int, left: int) -> None:
        self.fed = (fed, left)


class Rig:
    def __init__(self, server: Prometheus, **options: Any) -> None:
        self.server = server
        self.clock = ManualClock(1000.0)
        self.datastore = Datastore(self.clock)
        self.counting = Counting()
        self.told: list[str] = []
        self.promql = PromqlSource(self.datastore, self.clock, self.counting, self.told.append)
        defaults: dict[str, Any] = {"url": server.url, "period_seconds": 0.1, "deadline_seconds": 10.0}
        self.config = msgspec.convert(msgspec.to_builtins(PrometheusConfig(**(defaults | options))), PrometheusConfig)
        first, second = RECORDED["ports"]
        self.datastore.set_endpoints(
            [
                EndpointSpec(name="sim-0", address="127.0.0.1", port=first),
                EndpointSpec(name="sim-1", address="127.0.0.1", port=second),
            ]
        )

    def metrics(self, endpoint: EndpointId = BUSY) -> EndpointMetrics:
        found = self.datastore.get(endpoint)
        assert found is not None
        return found.metrics

    def fresh(self) -> tuple[bool, bool]:
        return self.promql.fresh(BUSY, self.clock.now()), self.promql.fresh(IDLE, self.clock.now())

    async def round(self, *, of: str | None = None) -> None:
        """Let a round pass that began after this call: the second to end."""
        await self._ends(self.counting.rounds.total() + 2)
        if of is not None:
            assert self.promql.status()["last_round"] == of, self.promql.status()

    async def first(self, of: str = "ok") -> None:
        self.promql.use(self.config)
        await self._ends(1)
        assert self.promql.status()["last_round"] == of, self.promql.status()

    async def _ends(self, rounds: int) -> None:
        async with asyncio.timeout(15):
            while self.counting.rounds.total() < rounds:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)


def with_rig(
    check: Callable[[Prometheus, Rig], Awaitable[None]], tls: ssl.SSLContext | None = None, **options: Any
) -> None:
    async def main() -> None:
        server = Prometheus()
        app = web.Application()
        app.router.add_get("/prefix/api/v1/query", server.query)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        server.url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}/prefix/"
        rig = Rig(server, **options)
        try:
            await check(server, rig)
        finally:
            await rig.promql.stop()
            server.unblock.set()
            await runner.cleanup()

    asyncio.run(main())


def test_gauges_with_their_true_age() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        metrics = rig.metrics()
        assert (metrics.waiting, metrics.running) == (0, 100)
        assert metrics.kv_usage == pytest.approx(0.0537, abs=1e-4)
        assert metrics.ttft == Quantiles(0.03470588235294118, 0.056874999999999995, 70)
        assert metrics.itl is not None
        assert (metrics.source, metrics.good_for) == ("promql", 30.0)
        assert metrics.age(rig.clock.now()) == pytest.approx(AGE, abs=0.1)
        assert rig.metrics(IDLE).ttft is None, "NaN: nothing was observed"
        assert rig.fresh() == (True, True)
        assert rig.counting.fed == (2, 0)
        assert not rig.told

    with_rig(check)


def test_ages_are_in_seconds_of_the_clock() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        rig.promql = PromqlSource(rig.datastore, rig.clock, rig.counting, scale=20.0)
        await rig.first()
        assert rig.metrics().age(rig.clock.now()) == pytest.approx(20 * AGE, abs=2)
        rig.clock.advance(580)
        assert rig.fresh() == (True, True)
        rig.clock.advance(20)
        assert rig.fresh() == (False, False)

    with_rig(check, period_seconds=60.0)


def test_what_prometheus_does_not_know_stays() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        rig.datastore.update_metrics(BUSY, EndpointMetrics(block_size=16, models=frozenset({"m"}), waiting=3))
        await rig.first()
        metrics = rig.metrics()
        assert (metrics.block_size, metrics.models, metrics.waiting) == (16, frozenset({"m"}), 0)

    with_rig(check)


def test_a_direct_reading_that_is_younger_stays_until_prometheus_has_scraped_again() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        direct = EndpointMetrics(waiting=9, source="scrape", updated=rig.clock.now() - 0.1)
        rig.datastore.update_metrics(BUSY, direct)
        await rig.first()
        assert rig.metrics() == direct
        assert rig.fresh()[0], "no need to read it directly all the same"
        rig.clock.advance(15)
        await rig.round(of="ok")
        assert rig.metrics().source == "promql"

    with_rig(check)


def test_a_pod_without_a_young_sample_is_read_directly_alone() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        server.drop(1)
        server.move(0, -4)
        rig.clock.advance(3)
        await rig.round(of="ok")
        assert rig.fresh() == (True, True), "the last samples are young enough still"
        rig.clock.advance(4)
        await rig.round()
        assert rig.fresh() == (True, False)
        assert rig.counting.fed == (1, 1)
        assert rig.promql.counts["fell-back"] == 1
        server.move(0, -60)
        rig.clock.advance(60)
        await rig.round(of="empty")
        assert rig.fresh() == (False, False)
        assert rig.promql.counts["fell-back"] == 2
        assert rig.told == ["no endpoint has gauges and a sampledAt younger than 6.0 s"]

    with_rig(check, max_age_seconds=6.0)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("error", "bad_data: invalid parameter"),
        ("garbage", "not one of Prometheus"),
        ("redirect", "answered 302"),
        ("500", "answered 500"),
        ("401", "answered 401"),
        ("huge", "larger than 4096 bytes"),
    ],
)
def test_failures_leave_everything_and_are_told_once(mode: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promql_client, "MAX_ANSWER_BYTES", 4096)

    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        before = rig.metrics()
        server.mode = mode
        await rig.round(of="failed")
        await rig.round(of="failed")
        assert rig.metrics() == before
        assert len(rig.told) == 1
        assert words in rig.told[0]
        server.mode = "good"
        await rig.round(of="ok")
        assert rig.promql.status()["problem"] is None

    with_rig(check)


def test_a_server_that_hangs_costs_the_deadline_and_no_more() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        server.mode = "hang"
        await rig.first("late")
        assert rig.fresh() == (False, False)
        assert "no answer to 10 of 10 queries within 0.2 s" in rig.told[0]

    with_rig(check, deadline_seconds=0.2)


def test_queries_that_are_late_cost_only_their_quantity() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        server.slow = {"ttftP95"}
        await rig.first("late")
        assert rig.metrics().running == 100
        assert rig.metrics().ttft is None
        assert rig.fresh() == (True, True)

    with_rig(check, deadline_seconds=3.0)


def test_one_bad_query_costs_only_its_quantity() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        server.answers["kvUsage"] = RECORDED["matrix"]
        await rig.first("partial")
        assert (rig.metrics().running, rig.metrics().kv_usage) == (100, 0.0)
        assert rig.told == ["kvUsage: the query gives a matrix, not an instant vector"]

    with_rig(check)


def test_nobody_listens() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first("failed")
        assert rig.fresh() == (False, False)

    with_rig(check, url="http://127.0.0.1:9")


def test_token_and_password_are_read_anew(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one\n")

    async def bearer(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        assert server.headers[-1]["Authorization"] == "Bearer one"
        secret.write_text("two")
        await rig.round()
        assert server.headers[-1]["Authorization"] == "Bearer two"
        secret.unlink()
        await rig.round(of="failed")
        assert "secret" in rig.told[0]

    with_rig(bearer, bearer_token_file=str(secret))
    secret.write_text("s3cret\n")

    async def basic(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        scheme, _, value = server.headers[-1]["Authorization"].partition(" ")
        assert (scheme, base64.b64decode(value)) == ("Basic", b"me:s3cret")

    with_rig(basic, username="me", password_file=str(secret))


@pytest.mark.parametrize("content", [b"", b"a\nb", b"\xff\xfe", b"a\x00b"])
def test_a_secret_that_cannot_stand_in_a_header_is_refused(content: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)

    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first("failed")
        assert not server.asked

    with_rig(check, bearer_token_file=str(secret))


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first("failed")

    with_rig(check, url="https://127.0.0.1:9", ca_file=str(tmp_path / "none.pem"))


def test_https_trusts_the_given_certificates_only(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=prometheus"
    words = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def trusted(server: Prometheus, rig: Rig) -> None:
        await rig.first()

    with_rig(trusted, context, ca_file=str(certificate))

    async def unknown(server: Prometheus, rig: Rig) -> None:
        await rig.first("failed")
        assert "certificate" in rig.told[0].lower()
        assert not server.asked

    with_rig(unknown, context)


def test_queries_of_one_endpoint_are_asked_for_each() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        server.answers["none"] = RECORDED["scalar"]
        await rig.first()
        assert rig.metrics().waiting == rig.metrics(IDLE).waiting == 1
        asked = [one["query"] for one in server.asked if one["query"].startswith("scalar")]
        port = RECORDED["ports"][0]
        assert asked[0] == f'scalar(q{{pod="sim-0",namespace="default",instance="127.0.0.1:{port}",m=""}})'

    query = 'scalar(q{pod="{pod}",namespace="{namespace}",instance="{address}:{port}",m="{model}"})'
    with_rig(check, queries={"waiting": query})


def test_a_quantity_can_be_left_out() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        assert len(server.asked) == 9
        assert rig.metrics().kv_usage == 0

    with_rig(check, queries={"kvUsage": ""}, period_seconds=60.0)


def test_another_configuration_and_none() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        rig.promql.use(rig.config)
        assert rig.fresh() == (True, True), "the same goes on"
        rig.promql.use(msgspec.structs.replace(rig.config, window="5m"))
        assert rig.fresh() == (False, False)
        await rig.round()
        assert any("[5m]" in one["query"] for one in server.asked)
        rig.promql.use(None)
        assert rig.fresh() == (False, False)
        assert rig.promql.status() == {}

    with_rig(check)


def test_an_endpoint_that_is_removed_is_forgotten() -> None:
    async def check(server: Prometheus, rig: Rig) -> None:
        await rig.first()
        specs = [EndpointSpec(name="sim-1", address="127.0.0.1", port=RECORDED["ports"][1])]
        rig.datastore.set_endpoints(specs)
        assert rig.fresh() == (False, True)
        await rig.round(of="ok")
        assert rig.counting.fed == (1, 0)
        assert rig.promql.counts["fell-back"] == 0
        rig.datastore.set_endpoints([])
        await rig.round(of="ok")

    with_rig(check)
