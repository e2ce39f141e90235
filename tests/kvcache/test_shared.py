"""The shared index over a real server: two replicas, restarts, outages, hand-over, and what is none of ours."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from tests.kvcache.redis_rig import RedisServer, Replica, replicas, run, until

from pointsman.errors import ConfigError
from pointsman.kvcache.kv_index import CPU, DISK, GPU
from pointsman.kvcache.shared_keys import DELTA_KEYS
from pointsman.kvcache.shared_reader import LIVE_CONFIDENCE


def test_who_does_not_hear_a_pod_has_what_another_hears(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope, 2) as (near, far):
            near.holds("a", range(100))
            near.holds("a", range(50, 60), CPU)
            await until(lambda: far.remembered("a") == near.own("a"))
            await until(lambda: far.memory.confidence("a") == LIVE_CONFIDENCE)
            near.frees("a", range(50))
            near.holds("a", [2**64 - 1, 0], DISK)
            await until(lambda: far.remembered("a") == near.own("a"))
            assert far.store.counts["deltas"] >= 1
            assert far.memory.block_size("a") == 16
            sink, slot = near.hears("a")
            sink.clear(slot)
            await until(lambda: far.remembered("a") == [set(), set(), set()])
            assert near.remembered("a") == [set(), set(), set()]  # what is heard is not remembered

    run(work)


def test_many_blocks_come_whole_and_in_pieces(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope, 2) as (near, far):
            near.holds("a", range(3 * DELTA_KEYS + 5))
            await until(lambda: shared_server.content(scope, "a") == near.own("a"))
            await until(lambda: far.remembered("a") == near.own("a"))
            near.frees("a", range(0, 3 * DELTA_KEYS, 2))
            near.holds("a", range(10**6, 10**6 + 2 * DELTA_KEYS))
            await until(lambda: far.remembered("a") == near.own("a"))
            assert shared_server.content(scope, "a") == near.own("a")
            assert near.store.counts["rewrites"] >= 1

    run(work)


def test_a_restart_is_warm_and_what_is_heard_ends_it(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope) as (before,):
            before.holds("a", range(100))
            await until(lambda: before.store.leases == 1)
        meta = shared_server.meta(scope, "a")
        assert (meta[b"seq"], meta[b"ts"], meta[b"block_size"], meta[b"models"]) == (b"7", b"1.5", b"16", b'["m"]')
        assert (meta[b"whole"], meta[b"confidence"]) == (b"1", b"0")
        async with replicas(shared_server, scope) as (after,):
            await until(lambda: len(after.remembered("a")[GPU]) == 100)
            assert after.memory.confidence("a") == 0.3  # its writer let go, and what is left is memory
            after.holds("a", range(5))
            after.memory.refresh()
            assert after.remembered("a") == [set(), set(), set()]
            await until(lambda: shared_server.content(scope, "a") == after.own("a"))

    run(work)


def test_a_pod_that_is_gone_leaves_nothing(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope, 2) as (near, far):
            near.holds("a", range(10))
            near.holds("b", range(10))
            await until(lambda: far.remembered("a") == near.own("a") and far.remembered("b") == near.own("b"))
            far.store.remove("a")  # not its to delete: another writes it
            await asyncio.sleep(0.1)
            assert shared_server.content(scope, "a") == near.own("a")
            near.store.remove("a")
            await until(lambda: not shared_server.meta(scope, "a"))
            await until(lambda: far.memory.slot_of("a", 0) == -1)
            assert far.remembered("b") == near.own("b")
            with shared_server.client() as client:
                assert not [
                    key for key in client.scan_iter(f"pointsman:{{{scope}}}:*") if key.endswith((b"a", b":a:0"))
                ]

    run(work)


def test_scopes_do_not_meet_and_expire(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope) as (one,), replicas(shared_server, scope + "x") as (other,):
            one.holds("a", [1])
            await until(lambda: shared_server.content(scope, "a")[GPU] == {1})
            other.holds("b", [1])
            await until(lambda: other.store.leases == 1)
            assert other.memory.slot_of("a", 0) == -1
            with shared_server.client() as client:
                keys = list(client.scan_iter(f"pointsman:{{{scope}}}:*"))
                assert len(keys) == 5  # lease, meta, one tier, holders, log
                assert all(0 < client.ttl(key) <= 60 for key in keys)

    run(work)


def test_the_server_dies_and_comes_back(server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(server, scope, 2) as (near, far):
            near.holds("a", range(10))
            await until(lambda: far.remembered("a") == near.own("a"))
            server.kill()
            near.holds("a", range(10, 20))
            near.frees("a", range(5))
            await until(lambda: not near.store.connected and not far.store.connected)
            near.holds("a", range(20, 30))
            assert far.remembered("a")[GPU] == set(range(10))  # nothing is lost but the sharing
            server.start()  # empty: nothing was kept
            await until(lambda: server.content(scope, "a") == near.own("a"))
            await until(lambda: far.remembered("a") == near.own("a"))
            near.frees("a", [25])
            await until(lambda: far.remembered("a") == near.own("a"))
            assert near.store.counts["outages"] == 1
            assert near.notes.count("the index is not shared for now") == 1
            assert "failed" not in near.store.counts

    run(work)


def test_without_a_server_everything_else_goes_on(tmp_path: Path, scope: str) -> None:
    server = RedisServer(tmp_path)

    async def work() -> None:
        async with replicas(server, scope) as (near,):
            near.holds("a", range(10))
            await until(lambda: near.store.counts.get("outages") == 1)
            near.holds("a", range(10, 20))
            assert near.own("a")[GPU] == set(range(20))
            await asyncio.sleep(0.3)
            assert near.notes == ["the index is not shared for now"]
            server.start()
            await until(lambda: server.content(scope, "a") == near.own("a"))

    try:
        run(work)
    finally:
        server.kill()


def test_scripts_that_were_flushed_are_told_again(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope) as (near,):
            near.holds("a", range(10))
            await until(lambda: near.store.leases == 1)
            with shared_server.client() as client:
                client.script_flush()
            near.holds("a", range(10, 20))
            await until(lambda: shared_server.content(scope, "a") == near.own("a"))

    run(work)


def test_a_missing_client_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigError, match=r"pointsman\[redis\]"):
        Replica("redis://127.0.0.1:1", "none")
