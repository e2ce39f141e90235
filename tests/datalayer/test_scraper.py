from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace
from tests.datalayer.pods_rig import PERIOD, Bench, bench, run, spec

from pointsman.datalayer import pod_reader
from pointsman.datalayer import scraper as scraper_module
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.pacing import Budget


def test_metrics_and_models_arrive() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.endpoint().metrics.waiting == 1 and bool(it.endpoint().metrics.models))
        metrics = it.endpoint().metrics
        assert metrics.running == 2
        assert metrics.models == {"base"}
        assert metrics.lora.available == {"lora"}
        assert 0 <= metrics.age(time.monotonic()) < 1
        it.pods[0].waiting = 6
        await it.until(lambda: it.endpoint().metrics.waiting == 6)
        assert it.endpoint().metrics.lora.available == {"lora"}, "a new reading keeps the models"
        assert it.counts.failed == 0
        assert it.counts.last == (1, 1)

    run(story)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("garbage", "no-metrics"),
        ("500", "status-5xx"),
        ("503", "status-5xx"),
        ("404", "status-4xx"),
        ("204", "status-2xx"),
        ("redirect", "redirect"),
        ("huge", "too-large"),
        ("bomb", "too-large"),
    ],
)
def test_answers_of_the_wrong_kind_leave_the_old_values(mode: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_reader, "MAX_PAGE_BYTES", 3000)

    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        it.pods[0].mode = mode
        await it.until(lambda: it.counts.failed >= 1)
        before = it.endpoint().metrics
        await it.readings(8)
        assert it.endpoint().metrics == before, "the age grows"
        assert it.counts.kinds[kind] >= 8
        assert it.endpoint().healthy
        it.pods[0].mode = "good"
        await it.until(lambda: it.endpoint().metrics.updated > before.updated)

    run(story, adaptive=False)


def test_a_hanging_pod_delays_nobody() -> None:
    async def story(it: Bench) -> None:
        for pod in it.pods[:3]:
            pod.mode = pod.models_mode = "hang"
        await it.until(lambda: it.pods[3].hits > 0)
        before = it.pods[3].hits
        await asyncio.sleep(0.5)
        assert it.pods[3].hits - before > 0.5 / PERIOD / 3, "a third of the nominal rate, on a busy machine"
        assert it.endpoint(3).metrics.age(time.monotonic()) < 0.2

    run(story, count=4, adaptive=False)


def test_models_failures_are_tolerated_and_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "MODELS_RETRY", 0.02)

    async def story(it: Bench) -> None:
        await it.until(lambda: bool(it.endpoint().metrics.models))
        it.store.set_endpoints([spec("pod-1", it.pods[1].port)])
        await it.until(lambda: it.pods[1].model_hits > 2)
        assert it.endpoint(1).healthy
        it.pods[1].models_mode = "good"
        await it.until(lambda: it.endpoint(1).metrics.models == {"base"})

    async def main() -> None:
        async with bench(2) as it:
            it.pods[1].models_mode = "garbage"
            await story(it)

    asyncio.run(main())


def test_endpoints_come_move_and_go() -> None:
    async def story(it: Bench) -> None:
        one, two = it.pods
        await it.until(lambda: one.hits > 0 and two.hits > 0)
        it.store.set_endpoints([spec("pod-0", two.port)])
        assert it.counts.last == (1, 1)
        two.waiting = 42
        await it.until(lambda: it.endpoint(0).metrics.waiting == 42)
        hits = one.hits
        await it.readings(5)
        assert one.hits <= hits + 1
        it.store.set_endpoints([])
        assert it.counts.last == (0, 0)

    run(story, count=2)


def test_start_and_stop_are_idempotent_and_repeatable() -> None:
    async def story(it: Bench) -> None:
        await it.scraper.start()
        await it.until(lambda: it.counts.read > 0)
        await it.scraper.stop()
        await it.scraper.stop()
        it.store.set_endpoints([spec("pod-0", it.pods[0].port), spec("pod-1", it.pods[0].port)])
        reads = it.counts.read
        await asyncio.sleep(3 * PERIOD)
        assert it.counts.read == reads
        await it.scraper.start()
        await it.until(lambda: it.counts.read > reads)
        it.pods[0].mode = "hang"
        await asyncio.sleep(2 * PERIOD)

    run(story)


def test_many_endpoints_stop_cleanly() -> None:
    async def story(it: Bench) -> None:
        port = it.pods[0].port
        it.store.set_endpoints([EndpointSpec(name=f"p{n}", address=f"127.0.0.{n}", port=port) for n in range(1, 100)])
        await asyncio.sleep(0.2)

    run(story)


@pytest.mark.parametrize("mode", ["gzip", "chunked", "close"])
def test_every_form_of_an_answer_is_read(mode: str) -> None:
    async def story(it: Bench) -> None:
        it.pods[0].mode = mode
        it.pods[0].moving = True
        goal = it.pods[0].waiting + 5
        await it.until(lambda: it.endpoint().metrics.waiting > goal)
        assert it.endpoint().metrics.source == "scrape"
        assert it.counts.failed == 0
        assert it.counts.bytes > 0

    run(story)


def test_a_page_that_trickles_in_meets_the_one_deadline() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        it.pods[0].mode = "slow"
        await it.until(lambda: it.counts.kinds["timeout"] > 0)
        it.pods[0].mode = "good"
        read = it.counts.read
        await it.until(lambda: it.counts.read > read)

    run(story)


class TestPeriod:
    def test_idle_pods_are_read_seldom_and_moving_ones_often(self) -> None:
        async def story(it: Bench) -> None:
            idle, moving = it.pods
            idle.waiting = idle.running = 0
            moving.moving = True
            period = it.scraper.describe
            await it.until(lambda: period(it.endpoint(0).id).get("period_s", 0) > 20 * PERIOD)
            before = idle.hits, moving.hits
            await it.until(lambda: moving.hits >= before[1] + 15)
            assert idle.hits - before[0] <= 5
            assert period(it.endpoint(1).id)["period_s"] < 2 * PERIOD

        run(story, count=2)

    def test_a_pick_wakes_an_idle_pod(self) -> None:
        async def story(it: Bench) -> None:
            it.pods[0].waiting = it.pods[0].running = 0
            endpoint = it.endpoint().id
            await it.until(lambda: it.scraper.describe(endpoint).get("period_s", 0) > 1, limit=10)
            hits = it.pods[0].hits
            it.pick()
            assert await it.until(lambda: it.pods[0].hits > hits) < 1
            assert it.scraper.describe(endpoint)["period_s"] < 1

        run(story, period=0.08)

    def test_of_a_pod_that_is_fed_from_elsewhere(self) -> None:
        async def story(it: Bench) -> None:
            it.pods[0].moving = True
            await it.until(lambda: it.counts.read > 3)
            it.scraper._fed = lambda endpoint, now: True
            await it.until(lambda: it.scraper.describe(it.endpoint().id)["period_s"] > 20 * PERIOD)

        run(story)

    def test_the_budget_stretches_all(self) -> None:
        async def story(it: Bench) -> None:
            it.pods[0].moving = True
            it.scraper.budget = Budget(1e-6)
            await it.until(lambda: it.scraper.describe(it.endpoint().id).get("period_s", 0) > 100 * PERIOD)
            assert it.endpoint().metrics.good_for > 300 * PERIOD

        run(story)


class TestLoadReport:
    HEADER = "TEXT named_metrics.kv_cache_usage_perc=0.25, named_metrics.num_requests_waiting=7.0"

    def test_is_taken_and_carries_its_age(self) -> None:
        async def story(it: Bench) -> None:
            await it.until(lambda: it.counts.read > 0)
            before = it.endpoint().metrics
            it.pick()
            it.scraper.load_report(it.endpoint().hostport, self.HEADER)
            metrics = it.endpoint().metrics
            assert (metrics.waiting, metrics.kv_usage, metrics.source) == (7, 0.25, "orca")
            assert metrics.running == before.running
            assert metrics.updated > before.updated
            assert it.scraper.describe(it.endpoint().id)["outcomes"]["orca"] == 1

        run(story, period=0.9)

    @pytest.mark.parametrize("header", ["", "BIN xyz", "TEXT a=1", "TEXT named_metrics.num_requests_waiting=7"])
    def test_of_no_use_changes_nothing(self, header: str) -> None:
        async def story(it: Bench) -> None:
            await it.until(lambda: it.counts.read > 0 and bool(it.endpoint().metrics.models))
            before = it.endpoint()
            it.scraper.load_report(before.hostport, header)
            it.scraper.load_report("10.9.9.9:1", self.HEADER)
            assert it.endpoint() is before

        run(story, period=0.9)


def test_labels_choose_the_engine() -> None:
    async def story(it: Bench) -> None:
        await it.until(lambda: it.counts.read > 0)
        one = spec("pod-0", it.pods[0].port)
        it.store.set_endpoints([replace(one, labels={"llm-d.ai/engine-type": "sglang"})])
        await it.until(lambda: it.counts.kinds["no-metrics"] > 0)
        it.store.set_endpoints([one])
        read = it.counts.read
        await it.until(lambda: it.counts.read > read)

    run(story)
