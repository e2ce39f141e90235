"""Endpoints from Kubernetes: what the API says, and every way in which it says it late, twice, badly or not at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tests.kube.emulation import PODS, POOLS
from tests.kube.world import APP, OBJECTIVES, REWRITES, World, everywhere, play, pod_status, until

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.kube.objects import Pool
from pointsman.kube.source import PoolChoice


@everywhere
def test_pods_come_and_go(place: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool(ports=(8000, 8001))
        await world.pod("a", "10.0.0.1")
        await world.pod("other", "10.0.0.9", labels={"app": "redis"})
        async with world.follower() as follower:
            assert follower.source.synced
            assert follower.now == {"a-rank-0": "10.0.0.1:8000", "a-rank-1": "10.0.0.1:8001"}
            await world.pod("b", "10.0.0.2", ready=False)
            await world.pod("c", "10.0.0.3")
            await follower.sees("a-rank-0", "a-rank-1", "c-rank-0", "c-rank-1")
            await world.pod("b", "10.0.0.2")
            await world.pod("a", "10.0.0.1", ready=False)
            await follower.sees("b-rank-0", "b-rank-1", "c-rank-0", "c-rank-1")
            await world.delete(PODS, "c")
            await follower.sees("b-rank-0", "b-rank-1")
            await world.delete(PODS, "b")
            await follower.sees()
            assert follower.source.synced

    play(place, tmp_path, scenario)


@everywhere
def test_labels_and_annotations_count_at_once(place: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool(ports=(8000, 8001))
        await world.pod("a", "10.0.0.1", labels={**APP, "role": "prefill"})
        async with world.follower() as follower:
            assert follower.sets[-1][0].labels["role"] == "prefill"
            await world.pod("a", "10.0.0.1", annotations={"llm-d.ai/active-ports": "8001"})
            await follower.sees("a-rank-1")
            assert "role" not in follower.sets[-1][0].labels
            await world.pod("a", "10.0.0.1", labels={"app": "moved-out"})
            await follower.sees()
            await world.pod("a", "10.0.0.1")
            await follower.sees("a-rank-0", "a-rank-1")

    play(place, tmp_path, scenario)


@everywhere
def test_a_pod_on_its_way_out_gets_nothing_more(place: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool()
        await world.pod("a", "10.0.0.1", finalizers=("pointsman.test/hold",))
        await world.pod("b", "10.0.0.2")
        async with world.follower() as follower:
            await follower.sees("a-rank-0", "b-rank-0")
            await world.delete(PODS, "a")
            await follower.sees("b-rank-0")
            assert await world.get(PODS, "a") is not None
            await world.pod("a", "10.0.0.1")  # without the finalizer: it may go

    play(place, tmp_path, scenario)


@everywhere
def test_the_pool_may_change_and_go_and_come(place: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pod("a", "10.0.0.1")
        await world.pod("b", "10.0.0.2", labels={"app": "other"})
        async with world.follower() as follower:
            assert not follower.source.synced
            assert follower.now == {}
            await world.pool()
            await follower.sees("a-rank-0")
            assert follower.source.pool is not None
            assert follower.source.pool.failure_mode == "FailOpen"
            await world.pool(ports=(9000, 9001))
            await follower.sees("a-rank-0", "a-rank-1")
            assert follower.now["a-rank-0"] == "10.0.0.1:9000"
            await world.pool(selector={"app": "other"}, ports=(9000,))
            await follower.sees("b-rank-0")
            # from the one set to the other in one step, never over an empty one
            assert [] not in follower.sets[1:]
            await world.delete(POOLS, "pool")
            await follower.sees()
            assert not follower.source.synced
            await world.pool(selector={"app": "other"})
            await follower.sees("b-rank-0")

    play(place, tmp_path, scenario)


@everywhere
def test_no_pool_is_needed_with_a_selector(place: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pod("a", "fd00::1")
        standalone = Pool("standalone", world.namespace, APP, (8000,))
        choice = PoolChoice(namespace=world.namespace, standalone=standalone)
        async with world.follower(choice) as follower:
            assert follower.source.synced
            assert follower.now == {"a-rank-0": "fd00::1:8000"}
            assert follower.sets[-1][0].namespace == world.namespace
            await world.policy(OBJECTIVES, "high", {"priority": 7, "poolRef": {"name": "whatever"}})
            await world.pod("b", "fd00::2")
            await follower.sees("a-rank-0", "b-rank-0")

    play(place, tmp_path, scenario, OBJECTIVES, REWRITES)


def test_a_storm_of_changes_is_put_in_force_together(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool()
        async with world.follower() as follower:
            slow = follower.source._use

            def use(specs: Sequence[EndpointSpec]) -> None:
                time.sleep(0.01)  # as many listeners and a thousand pods would
                slow(specs)

            follower.source._use = use
            before, began = len(follower.sets), time.monotonic()
            for number in range(200):
                item = {"metadata": {"labels": APP}, "status": pod_status(f"10.0.1.{number + 1}")}
                world.emulation._store(PODS, "default", f"p{number}", item)
            await until(lambda: len(follower.now) == 200)
            # one takes 10 ms and has 90 ms behind it
            assert len(follower.sets) - before <= 2 + (time.monotonic() - began) / 0.1
            # and what is no change for us is none
            seen, stats = len(follower.sets), follower.source.stats()["pods.v1"]
            events = stats.events
            old = world.emulation.find(PODS, "p7")
            world.emulation._store(PODS, "default", "p7", {**old, "status": {**old["status"], "phase": "Odd"}})
            await until(lambda: stats.events > events)
            assert len(follower.sets) == seen

    play("emulated", tmp_path, scenario)
