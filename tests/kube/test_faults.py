"""What goes wrong between an API server and whoever watches it. The set in force must stay right, or stay."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import msgspec
import pytest
from tests.kube.emulation import PODS, POOLS
from tests.kube.world import (
    FAST,
    LLMD,
    OBJECTIVES,
    OBJECTIVES_V1,
    OLD,
    REWRITES,
    Follower,
    World,
    play,
    pod_status,
    until,
)

from pointsman.kube.source import PoolChoice


def _pods(follower: Follower) -> str:
    return f"{follower.source.stats()['pods.v1']} {follower.reports}"


async def _watching(world: World, resource: str = PODS) -> None:
    await until(lambda: world.emulation.watching.get(resource, 0) > 0, lambda: f"nobody watches {resource}")


@pytest.mark.parametrize("as_status", [False, True])
def test_history_is_gone(tmp_path: Path, as_status: bool) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        emulation.gone_as_status = as_status
        await world.pool()
        await world.pod("a", "10.0.0.1")
        await world.pod("b", "10.0.0.2")
        async with world.follower() as follower:
            await _watching(world)
            await emulation.stop()
            # while nobody looks: one goes, one comes, and the history of it is forgotten
            emulation._remove(PODS, "default", "a")
            item = {"metadata": {"labels": {"app": "vllm"}}, "status": pod_status("10.0.0.3")}
            emulation._store(PODS, "default", "c", item)
            emulation.compact()
            await emulation.start()
            await follower.sees("b-rank-0", "c-rank-0")
            stats = follower.source.stats()["pods.v1"]
            assert stats.gone >= 1
            assert stats.lists >= 2
            await world.pod("d", "10.0.0.4")
            await follower.sees("b-rank-0", "c-rank-0", "d-rank-0")

    play("emulated", tmp_path, scenario)


def test_the_server_restarts_and_the_last_known_set_stays(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        for number in range(3):
            await world.pod(f"p{number}", f"10.0.0.{number + 1}")
        async with world.follower() as follower:
            await _watching(world)
            before = len(follower.sets)
            await emulation.stop()
            emulation._remove(PODS, "default", "p1")
            stats = follower.source.stats()["pods.v1"]
            await until(lambda: stats.failures >= 3, lambda: _pods(follower))
            assert len(follower.sets) == before
            assert len(follower.now) == 3
            assert follower.source.synced
            # said once, not with each attempt
            assert len([name for name, _ in follower.reports if name == "pods.v1"]) <= 2
            await emulation.start()
            await follower.sees("p0-rank-0", "p2-rank-0")
            await until(lambda: not stats.problem, lambda: _pods(follower))
            assert stats.lists == 1, "it went on where it had been, without a list"

    play("emulated", tmp_path, scenario)


def test_a_watch_breaks_amid_an_event(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        async with world.follower() as follower:
            for number in range(5):
                await _watching(world)
                emulation.inject(PODS, b'{"type":"ADDED","object":{"metadata":{"name":"half')
                await asyncio.sleep(0.01)
                emulation.cut()
                await _patiently(world, number)
            await follower.sees(*(f"p{number}-rank-0" for number in range(5)))
            assert follower.source.stats()["pods.v1"].lists == 1

    async def _patiently(world: World, number: int) -> None:
        for _ in range(20):  # the test's own connection may have been cut, too
            try:
                return await world.pod(f"p{number}", f"10.0.0.{number + 1}")
            except Exception:  # noqa: BLE001
                await asyncio.sleep(0.02)
        raise AssertionError("no pod could be made")

    play("emulated", tmp_path, scenario)


def test_a_server_that_hangs_up_is_asked_again_but_not_hammered(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        await world.pod("a", "10.0.0.1")
        async with world.follower() as follower:
            for _ in range(3):
                await _watching(world)
                emulation.hang_up()
            await world.pod("b", "10.0.0.2")
            await follower.sees("a-rank-0", "b-rank-0")
            stats = follower.source.stats()["pods.v1"]
            assert stats.lists == 1
            assert stats.failures == 0
            # one that hangs up each time at once
            stop = asyncio.Event()

            async def hang_up() -> None:
                while not stop.is_set():
                    emulation.hang_up()
                    await asyncio.sleep(0)

            task = asyncio.create_task(hang_up())
            before, began = stats.watches, asyncio.get_running_loop().time()
            await asyncio.sleep(0.5)
            stop.set()
            await task
            seconds = asyncio.get_running_loop().time() - began
            assert stats.watches - before <= 10 + seconds / 0.1, "FAST waits 0.1 to 0.2 s; it would be hundreds"

    play("emulated", tmp_path, scenario)


def test_events_twice_late_and_in_any_order(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        await world.pod("a", "10.0.0.1", ready=False)
        early = json.loads(json.dumps(emulation.find(PODS, "a")))
        async with world.follower() as follower:
            await world.pod("a", "10.0.0.1")
            await world.pod("b", "10.0.0.2")
            await follower.sees("a-rank-0", "b-rank-0")
            gone = json.loads(json.dumps(emulation.find(PODS, "b")))
            await world.delete(PODS, "b")
            await follower.sees("a-rank-0")
            stale = [("MODIFIED", early), ("MODIFIED", gone), ("ADDED", gone), ("DELETED", early)]
            random.Random(3).shuffle(stale)
            before = len(follower.sets)
            for kind, item in stale * 3:
                emulation.event(PODS, kind, item)
            await world.pod("c", "10.0.0.3")
            await follower.sees("a-rank-0", "c-rank-0")
            assert len(follower.sets) == before + 1

    play("emulated", tmp_path, scenario)


def test_a_line_that_is_no_event_costs_a_list(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        await world.pod("a", "10.0.0.1")
        async with world.follower() as follower:
            await _watching(world)
            emulation.inject(PODS, b"<html>the proxy says sorry</html>\n")
            stats = follower.source.stats()["pods.v1"]
            await until(lambda: stats.lists == 2, lambda: _pods(follower))
            await world.pod("b", "10.0.0.2")
            await follower.sees("a-rank-0", "b-rank-0")

    play("emulated", tmp_path, scenario)


def test_bookmarks_move_the_place_where_a_watch_goes_on(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        async with world.follower() as follower:
            await _watching(world)
            for number in range(20):
                emulation._store(OBJECTIVES, "default", f"o{number}", {"spec": {"poolRef": {"name": "pool"}}})
            version = emulation.log[-1].version
            emulation.event(PODS, "BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
            stats = follower.source.stats()["pods.v1"]
            await until(lambda: stats.events >= 1)
            emulation.compacted = version
            emulation.hang_up()
            await until(lambda: stats.watches >= 2)
            await world.pod("a", "10.0.0.1")
            await follower.sees("a-rank-0")
            assert (stats.gone, stats.lists) == (0, 1)

    play("emulated", tmp_path, scenario)


def test_long_lists_come_in_pages_and_a_page_may_expire(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        emulation.page_limit = 4
        emulation.expire_pages = 1
        await world.pool()
        names = [f"p{number:02}" for number in range(15)]
        for number, name in enumerate(names):
            item = {"metadata": {"labels": {"app": "vllm"}}, "status": pod_status(f"10.0.1.{number + 1}")}
            emulation._store(PODS, "default", name, item)
        async with world.follower() as follower:
            assert sorted(follower.now) == [f"{name}-rank-0" for name in names]
            stats = follower.source.stats()["pods.v1"]
            assert (stats.gone, stats.lists, stats.failures) == (1, 1, 0)

    play("emulated", tmp_path, scenario)


def test_a_relist_finds_what_a_watch_never_told(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        await world.pod("a", "10.0.0.1")
        timing = msgspec.structs.replace(FAST, relist=1.0)
        async with world.follower(timing=timing) as follower:
            await _watching(world)
            del emulation.objects[PODS, "default", "a"]  # no event will ever tell
            await follower.sees()
            assert not [text for name, text in follower.reports if name == "pods.v1"]

    play("emulated", tmp_path, scenario)


def test_a_bad_object_is_refused_by_name_and_the_others_live_on(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool()
        await world.pod("good", "10.0.0.1")
        await world.pod("bad", "10.0.0.2")
        await world.pod("nowhere", "not-an-address")
        bad = {"metadata": {"name": "odd", "labels": {"app": "vllm"}}, "status": {"podIP": 7}}
        world.emulation._store(PODS, "default", "odd", bad)
        async with world.follower() as follower:
            assert sorted(follower.now) == ["bad-rank-0", "good-rank-0"]
            assert any(name == "pods.v1" and "default/odd" in text for name, text in follower.reports)
            # one that was good keeps what it was
            old = world.emulation.find(PODS, "bad")
            world.emulation._store(PODS, "default", "bad", {**old, "status": "broken"})
            await until(lambda: any("default/bad" in text for _, text in follower.reports))
            assert follower.source.stats()["pods.v1"].refused == 2
            # so does a pool
            item = world.emulation.find(POOLS, "pool")
            broken = {**item, "spec": {**item["spec"], "targetPorts": [{"number": 0}]}}
            world.emulation._store(POOLS, "default", "pool", broken)
            await until(lambda: any("default/pool" in text for _, text in follower.reports))
            assert sorted(follower.now) == ["bad-rank-0", "good-rank-0"]
            await world.delete(PODS, "bad")
            await world.pool(ports=(8000, 8001))
            await follower.sees("good-rank-0", "good-rank-1")

    play("emulated", tmp_path, scenario)


def test_resource_definitions_may_be_missing_and_come_later(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pod("a", "10.0.0.1")
        async with world.follower() as follower:
            assert not follower.source.synced
            assert all(stats.absent for name, stats in follower.source.stats().items() if name != "pods.v1")
            emulation.served |= {POOLS}
            await world.pool()
            await follower.sees("a-rank-0")
            emulation.served |= {OBJECTIVES}
            await world.policy(OBJECTIVES, "high", {"priority": 3, "poolRef": {"name": "pool"}})
            await until(lambda: follower.policies.priority("high") == 3)
            # an API server that starts up again denies for a moment that it knows them
            emulation.served -= {POOLS, OBJECTIVES}
            emulation.hang_up()
            pools = follower.source.stats()["inferencepools.v1.inference.networking.k8s.io"]
            await until(lambda: pools.absent)
            assert follower.policies.priority("high") == 3
            assert list(follower.now) == ["a-rank-0"]
            emulation.served |= {POOLS, OBJECTIVES}
            await until(lambda: not pools.absent)
            assert list(follower.now) == ["a-rank-0"]

    play("emulated", tmp_path, scenario, PODS)


def test_a_missing_right_is_said_once_and_comes_later(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        await world.pod("a", "10.0.0.1")
        emulation.refuse[PODS] = 403
        async with world.follower() as follower:
            assert follower.now == {}
            assert not follower.source.synced
            await until(lambda: follower.source.stats()["pods.v1"].failures >= 3)
            assert len([text for name, text in follower.reports if name == "pods.v1" and "403" in text]) == 1
            del emulation.refuse[PODS]
            await follower.sees("a-rank-0")

    play("emulated", tmp_path, scenario)


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_not_asked_for_lists(tmp_path: Path, status: int) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        await world.pod("a", "10.0.0.1")
        async with world.follower() as follower:
            await _watching(world)
            emulation.refuse[PODS] = status
            emulation.hang_up()
            stats = follower.source.stats()["pods.v1"]
            await until(lambda: stats.failures >= 3, lambda: _pods(follower))
            assert list(follower.now) == ["a-rank-0"]
            del emulation.refuse[PODS]
            await world.pod("b", "10.0.0.2")
            await follower.sees("a-rank-0", "b-rank-0")
            assert stats.lists == 1

    play("emulated", tmp_path, scenario)


def test_a_server_that_was_never_there_costs_only_patience(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        emulation = world.emulation
        await world.pool()
        await world.pod("a", "10.0.0.1")
        await emulation.stop()
        client = world.client
        follower = Follower(client, PoolChoice(namespace="default", name="pool"), FAST)
        try:
            await follower.source.start(patience=0.05)
            assert not follower.source.synced
            assert follower.sets == []
            await emulation.start()
            await follower.sees("a-rank-0")
        finally:
            await follower.source.stop()

    play("emulated", tmp_path, scenario)


def test_a_listener_that_raises_does_not_end_the_watch(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool()
        async with world.follower() as follower:
            use = follower.source._use

            def fail(_: object) -> None:
                follower.source._use = use
                raise RuntimeError("a plugin of somebody's")

            follower.source._use = fail
            await world.pod("a", "10.0.0.1")
            await until(lambda: any("somebody" in text for _, text in follower.reports))
            await world.pod("b", "10.0.0.2")
            await follower.sees("a-rank-0", "b-rank-0")

    play("emulated", tmp_path, scenario)


def test_old_and_new_groups_side_by_side(tmp_path: Path) -> None:
    old = f"{OLD}/v1alpha2/inferenceobjectives"

    async def scenario(world: World) -> None:
        await world.pool(labels={"tier": "gold"})
        await world.policy(old, "low", {"priority": -1, "poolRef": {"name": "pool"}})
        await world.policy(old, "high", {"priority": 1, "poolRef": {"name": "pool"}})
        async with world.follower() as follower:
            assert follower.policies.objectives == {"low": -1, "high": 1}
            await world.policy(OBJECTIVES, "high", {"priority": 2, "poolRef": {"name": "pool"}})
            await until(lambda: follower.policies.priority("high") == 2)
            await world.policy(
                OBJECTIVES_V1, "high", {"priority": 3, "poolSelector": {"matchLabels": {"tier": "gold"}}}
            )
            await until(lambda: follower.policies.priority("high") == 3)
            await world.pool(labels={"tier": "silver"})
            await until(lambda: follower.policies.priority("high") == 2)
            await world.delete(OBJECTIVES, "high")
            await until(lambda: follower.policies.priority("high") == 1)

    play("emulated", tmp_path, scenario, POOLS, old, OBJECTIVES, OBJECTIVES_V1, REWRITES)
    assert OBJECTIVES.startswith(LLMD)
