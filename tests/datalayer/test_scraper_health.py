"""Who is taken out, when, and how it comes back; and that none of it touches the others."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc

import pytest
from tests.datalayer.pods_rig import PERIOD, Bench, run, spec

from pointsman.api.endpoint import EndpointId
from pointsman.datalayer.sleeper import MIN_PAUSE


@pytest.mark.parametrize("mode", ["reset", "cut"])
def test_broken_connections_make_unhealthy_and_the_first_success_heals(mode: str) -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        it.pods[0].mode = mode
        await it.until(lambda: not it.endpoint().healthy)
        assert it.store.snapshot() == ()
        assert it.counts.last == (1, 0)
        it.pods[0].mode = "good"
        await it.until(lambda: it.endpoint().healthy)
        assert it.counts.last == (1, 1)

    run(story)


def test_a_stopped_server_is_found_out_in_time_and_comes_back() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        await it.pods[0].stop()
        # At the real period, the promise is: well below a second.
        assert await it.until(lambda: not it.endpoint().healthy) < 1.0
        health = it.store.health(it.endpoint().id)
        assert health is not None
        assert health.why.startswith("no connection")
        it.pods[0].models = [{"id": "other", "parent": None}]
        await it.pods[0].start()
        await it.until(lambda: it.endpoint().healthy)
        await it.until(lambda: it.endpoint().metrics.models == {"other"}, 2)

    run(story, period=0.2)


def test_never_there() -> None:
    async def story(it: Bench) -> None:
        port = it.pods[0].port
        await it.pods[0].stop()
        it.store.set_endpoints([spec("other", port)])
        await it.until(lambda: not it.store.all()[0].healthy)

    run(story)


def test_one_time_out_is_forgiven_and_five_are_not() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        it.pods[0].mode = "hang"
        await it.until(lambda: it.counts.failed >= 3)
        assert it.endpoint().healthy
        await it.until(lambda: not it.endpoint().healthy)
        assert 5 <= it.counts.failed <= 6
        it.pods[0].mode = "good"
        await it.until(lambda: it.endpoint().healthy)

    run(story)


def test_flapping() -> None:
    async def story(it: Bench) -> None:
        changes: list[bool] = []
        for _ in range(3):
            it.pods[0].mode = "reset"
            await it.until(lambda: not it.endpoint().healthy)
            changes.append(it.endpoint().healthy)
            it.pods[0].mode = "good"
            await it.until(lambda: it.endpoint().healthy)
            changes.append(it.endpoint().healthy)
        assert changes == [False, True] * 3

    run(story)


def test_a_reported_failure_brings_the_probe_forward_and_makes_it_decisive() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        endpoint = it.endpoint().id
        it.scraper.report_connect_failure(endpoint)
        await it.until(lambda: it.counts.read > 1, 1)
        assert it.endpoint().healthy, "hearsay alone is not enough"
        await it.pods[0].stop()
        it.scraper.report_connect_failure(endpoint)
        assert await it.until(lambda: not it.endpoint().healthy) < 1
        it.scraper.report_connect_failure(EndpointId("default/nobody"))

    run(story, period=0.9)


def test_reports_by_the_hundred_do_not_flood() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        hits = it.pods[0].hits
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            it.scraper.report_connect_failure(it.endpoint().id)
            await asyncio.sleep(0.0005)
        assert 2 < it.pods[0].hits - hits <= 0.3 / MIN_PAUSE + 2

    run(story, period=0.9)


def test_something_that_is_not_http_proves_nothing() -> None:
    async def main() -> None:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\x15\x03\x01\x00\x02\x02\x50 TLS says no\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(shout, "127.0.0.1", 0)
        it = Bench([], PERIOD)
        it.store.set_endpoints([spec("pod-0", server.sockets[0].getsockname()[1])])
        await it.scraper.start()
        await it.until(lambda: it.counts.failed > 4)
        assert it.endpoint().healthy
        health = it.store.health(it.endpoint().id)
        assert health is not None
        assert health.why == "not probed yet"
        await it.scraper.stop()
        server.close()
        await server.wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["hang", "garbage", "reset", "cut", "slow", "bomb", "500"])
def test_whatever_one_pod_does_the_other_is_read_as_before(mode: str) -> None:
    async def story(it: Bench) -> None:
        bad, good = it.pods
        await it.until(lambda: bad.hits > 0 and good.hits > 0)
        bad.mode = mode
        good.moving = True
        before, seen = good.hits, bad.hits
        await it.until(lambda: good.hits > before + 20 and bad.hits > seen)
        assert it.endpoint(1).healthy
        assert it.endpoint(1).metrics.age(time.monotonic()) < 1

    run(story, count=2)


@pytest.mark.timeout(90)
def _traced() -> int:
    """Bytes in use that the data layer or the ledger asked for; the rest of the process has a life of its own."""
    gc.collect()
    ours = [tracemalloc.Filter(True, f"*/pointsman/{part}/*") for part in ("datalayer", "requestcontrol")]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)


@pytest.mark.timeout(90)
def test_flapping_a_hundred_times_costs_no_memory_and_no_negative_counts() -> None:
    async def story(it: Bench) -> None:
        held = it.pick()
        for turn in range(110):
            it.pods[0].mode = "reset"
            await it.until(lambda: not it.endpoint().healthy)
            it.pods[0].mode = "good"
            await it.until(lambda: it.endpoint().healthy)
            reservation = it.pick()
            it.ledger.release(reservation)
            load = it.ledger.load(it.endpoint().id)
            assert (load.requests, load.tokens) == (1, 100)
            if turn == 20:
                tracemalloc.start()
                before = _traced()
        grown = _traced() - before
        tracemalloc.stop()
        it.ledger.release(held)
        assert it.ledger.totals() == (0, 0)
        assert grown < 200_000, "a hundred flaps"
        watch = it.scraper._watches[it.endpoint().id]
        assert all(count > 0 for count in watch.kinds.values())
        assert len(watch.kinds) <= 3

    run(story, period=0.01, adaptive=False)


def test_a_pod_that_closes_every_connection_is_not_read_the_faster() -> None:
    async def main() -> None:
        answers = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal answers
            await reader.readuntil(b"\r\n\r\n")
            answers += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\nvllm:num_requests_waiting 0\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        it = Bench([], 0.2)
        it.store.set_endpoints([spec("pod-0", server.sockets[0].getsockname()[1])])
        await it.scraper.start()
        await it.until(lambda: it.counts.read >= 2)
        before = it.counts.read
        await asyncio.sleep(1.0)
        assert it.counts.read - before <= 6
        assert it.endpoint().healthy
        await it.scraper.stop()
        server.close()
        await server.wait_closed()

    asyncio.run(main())
